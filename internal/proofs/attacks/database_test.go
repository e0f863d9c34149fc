package attacks

var databaseAttacks = []attack{}
