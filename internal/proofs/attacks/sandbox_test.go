package attacks

var sandboxAttacks = []attack{}
