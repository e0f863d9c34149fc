package attacks

var guardsAttacks = []attack{}
