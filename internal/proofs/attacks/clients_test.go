package attacks

var clientsAttacks = []attack{}
