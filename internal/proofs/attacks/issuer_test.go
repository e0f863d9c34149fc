package attacks

var issuerAttacks = []attack{}
