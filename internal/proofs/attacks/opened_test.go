package attacks

var openedAttacks = []attack{}
