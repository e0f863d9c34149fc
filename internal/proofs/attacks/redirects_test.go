package attacks

var redirectsAttacks = []attack{}
