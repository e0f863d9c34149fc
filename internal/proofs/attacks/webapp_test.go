package attacks

var webappAttacks = []attack{}
