package attacks

var embeddedAttacks = []attack{}
