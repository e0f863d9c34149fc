package attacks

var callbackAttacks = []attack{}
