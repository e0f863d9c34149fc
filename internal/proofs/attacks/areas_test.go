package attacks

// areas are the parts of the table, in its order. Each is in a file of its own.
var areas = []area{
	{"The issuer", issuerAttacks},
	{"Clients and consent", clientsAttacks},
	{"What reaches a terminal", printerAttacks},
	{"Addresses that are opened", openedAttacks},
	{"The browser that was sent", browserAttacks},
	{"Addresses that are asked", guardsAttacks},
	{"Files", filesAttacks},
	{"Answers that wear one down", wearAttacks},
	{"The callback", callbackAttacks},
	{"Redirects", redirectsAttacks},
	{"Words of a server", wordsAttacks},
	{"The database", databaseAttacks},
	{"The web application", webappAttacks},
	{"The sandbox", sandboxAttacks},
	{"Programs that embed the library", embeddedAttacks},
}
