package attacks

var wordsAttacks = []attack{}
