package attacks

var wearAttacks = []attack{}
