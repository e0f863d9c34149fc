package attacks

var filesAttacks = []attack{}
