package attacks

var browserAttacks = []attack{}
