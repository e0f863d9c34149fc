package attacks

// areas are the parts of the table, in order. Each has a file of its own.
var areas = []area{
	{title: "The issuer", attacks: issuerAttacks, alone: true},
	{title: "Clients and consent", attacks: clientsAttacks},
	{title: "What reaches a terminal", attacks: printerAttacks},
	{title: "Addresses that are opened", attacks: openedAttacks},
	{title: "The browser that was sent", attacks: browserAttacks, alone: true},
	{title: "Addresses that are asked", attacks: guardsAttacks, alone: true},
	{title: "Files", attacks: filesAttacks},
	{title: "Answers that wear one down", attacks: wearAttacks, alone: true},
	{title: "The callback", attacks: callbackAttacks, alone: true},
	{title: "Redirects", attacks: redirectsAttacks},
	{title: "Words of a server", attacks: wordsAttacks},
	{title: "The database", attacks: databaseAttacks},
	{title: "The web application", attacks: webappAttacks},
	{title: "The sandbox", attacks: sandboxAttacks},
	{title: "Programs that embed the library", attacks: embeddedAttacks, alone: true},
}
