package attacks

var printerAttacks = []attack{}
