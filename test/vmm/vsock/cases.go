package vsock

// Cases is the table. A connection that the host has dialled begins with these lines, one that the guest has dialled with those.
func Cases() []Case {
	const (
		fromHost = `
			guest listen l 6000 16
			host dial c 6000
			guest accept c l
			`
		fromGuest = `
			host listen l 7000 16
			guest dial c 7000
			host accept c l
			`
	)
	// First, while no connection of an earlier case can count.
	all := []Case{limit}
	for _, opening := range []struct{ by, script string }{{"the host", fromHost}, {"the guest", fromGuest}} {
		for _, c := range closings {
			all = append(all, Case{Name: c.Name + ", opened by " + opening.by, Script: opening.script + c.Script})
		}
	}
	for _, c := range delays {
		all = append(all, Case{Name: c.Name, Script: fromHost + c.Script})
	}
	all = append(all, connectLines()...)
	all = append(all, dialsOfTheHost...)
	return append(all, dialsOfTheGuest...)
}

// limit is Firecracker's: 1023 connections, of which the control connection is one.
var limit = Case{"the limit of connections", `
	guest listen l 6000 2000
	host listen m 7000 16
	host many - 6000 1021
	host dial c 6000
	host open d
	host answer d
	guest dial d 7000
	host close c
	settle
	guest dial d 7000
	host open e
	host answer e
	host accept f m
	host rest f
	host accept g m
	host write g 100
	guest read d 100`}

// closings are what becomes of an open connection c.
var closings = []Case{
	{"host closes", `
			host write c 100
			host close c
			guest rest c
			guest write c 100
			guest close c`},
	{"host closes with data unread", `
			host write c 100
			guest write c 100
			host read c 50
			host close c
			guest read c 100
			guest rest c
			guest write c 100`},
	{"host half-closes when the guest has read", `
			host write c 100
			guest read c 100
			guest write c 100
			host shut c send
			guest rest c
			host rest c
			guest write c 100`},
	{"host half-closes with nothing on its way", `
			settle
			host shut c send
			guest rest c
			host rest c
			guest write c 100`},
	{"host half-closes while the guest has not read", `
			host write c 100
			host shut c send
			settle
			guest write c 100
			host quiet c
			guest rest c
			guest write c 100
			host quiet c
			guest close c
			host rest c`},
	{"host half-closes and the guest closes without reading", `
			host write c 100
			host shut c send
			settle
			guest close c
			host rest c`},
	{"host stops receiving", `
			host shut c receive
			guest write c 100
			settle
			guest rest c
			guest write c 100
			host write c 100
			host rest c`},
	{"host stops both", `
			host write c 100
			host shut c both
			guest rest c
			guest write c 100
			host rest c`},
	{"guest shuts down sending", `
			guest write c 100
			guest shut c send
			host read c 100
			host quiet c
			host write c 100
			guest read c 100
			guest write c 100
			host quiet c
			host close c
			guest rest c`},
	{"guest shuts down sending, and the host half-closes", `
			guest shut c send
			host quiet c
			host write c 100
			host shut c send
			settle
			guest rest c
			host quiet c
			guest close c
			host rest c`},
	{"guest shuts down receiving", `
			guest shut c receive
			settle
			host write c 100
			guest write c 100
			host read c 100
			guest rest c
			host quiet c
			guest close c
			host rest c`},
	{"guest shuts down receiving, and the host closes", `
			guest shut c receive
			settle
			host close c
			settle
			guest write c 100
			settle
			guest write c 100
			guest rest c`},
	{"guest shuts down receiving with data unread", `
			host write c 100
			guest read c 50
			guest shut c receive
			settle
			guest rest c
			guest write c 100
			host read c 100
			host quiet c`},
	{"guest shuts down both", `
			guest write c 100
			guest shut c both
			host rest c
			host write c 100
			guest rest c
			guest write c 100`},
	{"guest shuts down sending, then receiving", `
			guest write c 100
			guest shut c send
			guest shut c receive
			host rest c
			host write c 100`},
	{"guest shuts down receiving, then sending", `
			guest shut c receive
			guest write c 100
			guest shut c send
			host rest c
			guest close c`},
	{"guest closes", `
			guest write c 100
			guest close c
			host rest c
			host write c 100`},
	{"guest closes with data unread", `
			host write c 100
			guest read c 50
			guest write c 100
			guest close c
			host rest c
			host write c 100`},
	{"guest closes with data of the host's unread on both sides", `
			host fill c
			guest close c
			host rest c
			host write c 100`},
	{"guest closes and lingers", `
			guest write c 100
			guest linger c 5
			guest close c
			host rest c`},
	{"guest closes without lingering", `
			guest write c 100
			guest linger c 0
			guest close c
			host rest c`},
	{"both close", `
			host close c
			guest close c
			settle`},
	{"host vanishes while both write", `
			start guest write c 4000000
			start host write c 4000000
			host read c 1000
			guest read c 1000
			host shut c both
			finish host write c 4000000
			host close c
			finish guest write c 4000000
			guest write c 100`},
	{"guest vanishes while both write", `
			start guest write c 4000000
			start host write c 4000000
			host read c 1000
			guest read c 1000
			guest shut c both
			finish guest write c 4000000
			guest close c
			finish host write c 4000000`},
	{"data both ways", `
			start guest write c 4000000
			start host write c 4000000
			start guest read c 4000000
			host read c 4000000
			finish guest read c 4000000
			finish guest write c 4000000
			finish host write c 4000000
			host quiet c
			guest quiet c`},
}

// delays are what becomes of data for a side that does not read at once, on an open connection c. Firecracker's limits of 2 s
// are stepped over by 3 s.
var delays = []Case{
	{"host closes with much on its way to the guest", `
			host write c 150000
			host close c
			wait 3
			guest rest c`},
	{"host closes with much on its way to the guest, and then another connection", `
			guest listen m 6001 16
			host write c 150000
			host close c
			wait 3
			host dial d 6001
			guest rest c`},
	{"host closes, the guest does not read, and then another connection", `
			guest listen m 6001 16
			host write c 100
			host close c
			settle
			wait 3
			host dial d 6001
			settle
			guest write c 100
			guest rest c`},
	{"host half-closes, and another connection after 3 s", `
			guest listen m 6001 16
			host write c 100
			host shut c send
			settle
			wait 3
			host quiet c
			host dial d 6001
			host rest c
			guest rest c`},
	{"guest closes, the host reads late", `
			guest fill c
			guest close c
			host drain c c`},
	{"guest closes, the host reads after 3 s", `
			guest fill c
			guest close c
			wait 3
			host drain c c`},
	{"guest closes, another connection at once, the host reads then", `
			guest listen m 6001 16
			guest fill c
			guest close c
			host dial d 6001
			settle
			host drain c c`},
	{"guest closes, another connection after 3 s, the host reads then", `
			guest listen m 6001 16
			guest fill c
			guest close c
			wait 3
			host dial d 6001
			settle
			host drain c c`},
	{"guest closes, another connection of the guest's after 3 s, the host reads then", `
			host listen m 7001 16
			guest fill c
			guest close c
			wait 3
			guest dial d 7001
			settle
			host drain c c`},
	{"guest closes, a dial of the guest's that is refused after 3 s, the host reads then", `
			guest fill c
			guest close c
			wait 3
			guest dial d 7001
			settle
			host drain c c`},
	{"guest closes, the host reads after 11 s, when the guest has given up", `
			guest fill c
			guest close c
			wait 11
			host drain c c`},
	{"guest shuts down both, another connection after 3 s, the host reads then", `
			guest listen m 6001 16
			guest fill c
			guest shut c both
			wait 3
			host dial d 6001
			settle
			host drain c c`},
	{"guest shuts down in two steps, another connection after 3 s, the host reads then", `
			guest listen m 6001 16
			guest fill c
			guest shut c send
			guest shut c receive
			wait 3
			host dial d 6001
			settle
			host drain c c`},
	{"guest shuts down sending, another connection after 3 s, the host reads then", `
			guest listen m 6001 16
			guest fill c
			guest shut c send
			wait 3
			host dial d 6001
			settle
			host read c 100000
			host close c
			guest rest c`},
	{"guest closes, the host closes without reading", `
			guest fill c
			guest close c
			host close c
			settle`},
	{"guest goes on when the host has read", `
			guest fill c
			start guest write c 300000
			host read c 300000
			host read c 200000
			finish guest write c 300000
			guest quiet c`},
	{"host goes on when the guest has read", `
			host fill c
			start host write c 300000
			guest read c 300000
			guest read c 300000
			finish host write c 300000
			host quiet c`},
	{"a reader that stops holds up nobody", `
			guest listen m 6001 16
			host dial d 6001
			guest accept d m
			guest fill c
			host fill c
			start guest write d 1000000
			host read d 1000000
			finish guest write d 1000000
			start host write d 1000000
			guest read d 1000000
			finish host write d 1000000`},
}
