package vsock

import (
	"fmt"
	"strings"
)

// commandLines are what host programs write to the VMM's socket first, all in one piece.
var commandLines = []struct{ name, text string }{
	{"well-formed", "CONNECT 6000\n"},
	{"in lower case", "connect 6000\n"},
	{"in mixed case", "cOnNeCt 6000\n"},
	{"with white space", " \t CONNECT \t 6000 \r\n"},
	{"with zeros before the port", "CONNECT 000006000\n"},
	{"with a plus sign", "CONNECT +6000\n"},
	{"with another word", "CONNECT 6000 please\n"},
	{"in two lines", "CONNECT\n6000\n"},
	{"of two lines, the first without a port", "CONNECT   \n6000\n"},
	{"of 32 bytes with its end", "CONNECT 6000" + strings.Repeat(" ", 19) + "\n"},
	{"of 32 bytes without an end", "CONNECT 6000" + strings.Repeat(" ", 20)},
	{"without an end", "CONNECT 6000"},
	{"without a port", "CONNECT\n"},
	{"without a port, long", "CONNECT         \n"},
	{"with a short port", "CONNECT 9\n"},
	{"with a bad port", "CONNECT sixthousand\n"},
	{"with a hexadecimal port", "CONNECT 0x1770\n"},
	{"with a negative port", "CONNECT -6000\n"},
	{"with port 2^32", "CONNECT 4294967296\n"},
	{"with port 2^32-1", "CONNECT 4294967295\n"},
	{"with port 2^64", "CONNECT 18446744073709551616\n"},
	{"of another command", "LISTEN 6000\n"},
	{"of a longer command", "CONNECTED 6000\n"},
	{"of bytes that are no text", "CONNECT 6000 \xff\xfe\n"},
	{"of zero bytes", strings.Repeat("\x00", 16)},
	{"of empty lines", strings.Repeat("\n", 12)},
	{"of one byte", "C"},
	{"to a port without a listener", "CONNECT 6999\n"},
}

func connectLines() []Case {
	var all []Case
	for _, line := range commandLines {
		all = append(all, Case{"command " + line.name, fmt.Sprintf(`
			guest listen l 6000 16
			host open c
			host send c %+q
			host answer c
			host send c "more"`, line.text)})
	}
	return append(all, commands...)
}

// commands are what else happens around the command.
var commands = []Case{
	{"command with data behind it", `
			guest listen l 6000 16
			host open c
			host send c "CONNECT 6000\nhello"
			host answer c
			guest accept c l
			guest expect c "hello"
			guest quiet c`},
	{"command of more than 32 bytes: the rest is data", `
			guest listen l 6000 16
			host open c
			host send c "CONNECT 6000____________________hello\n"
			host answer c
			host open d
			host send d "CONNECT 6000                    hello\n"
			host answer d
			guest accept d l
			guest expect d "hello\n"
			guest quiet d`},
	{"bad command with data behind it", `
			host open c
			host send c "CONNECT port\nhello"
			host answer c
			host quiet c`},
	{"command in two pieces", `
			guest listen l 6000 16
			host open c
			host send c "CONNECT 60"
			host answer c
			host send c "00\n"`},
	{"command in two pieces, the first too short", `
			guest listen l 6000 16
			host open c
			host send c "CONNECT"
			host answer c
			host send c " 6000\n"`},
	{"no command: half-closed", `
			host open c
			host shut c send
			host answer c`},
	{"no command: closed", `
			host open c
			host close c
			settle`},
	{"command, and the host half-closes before the answer", `
			guest listen l 6000 16
			host open c
			host send c "CONNECT 6000\nhello"
			host shut c send
			host answer c
			settle
			guest accept c l
			guest expect c "hello"
			guest rest c
			host quiet c
			guest close c
			host rest c`},
	{"command, and the host closes before the answer", `
			guest listen l 6000 16
			host open c
			host send c "CONNECT 6000\n"
			host close c
			guest accept c l
			guest rest c
			guest write c 100`},
	{"program that never says a command", `
			guest listen l 6000 16
			host open c
			host dial d 6000
			wait 3
			host dial e 6000
			host quiet c
			host send c "CONNECT 6000\n"
			host answer c`},
}

// dialsOfTheHost are connections to listeners in the guest.
var dialsOfTheHost = []Case{
	{"guest accepts late", `
			guest listen l 6000 16
			host dial c 6000
			host write c 100
			wait 3
			host dial d 6000
			guest accept c l
			guest read c 100
			guest write c 100
			host read c 100`},
	{"host closes before the guest accepts", `
			guest listen l 6000 16
			host dial c 6000
			host write c 100
			host close c
			settle
			guest accept c l
			guest write c 100
			guest rest c`},
	{"guest stops listening before it accepts", `
			guest listen l 6000 16
			host dial c 6000
			host write c 100
			settle
			guest close l
			host answer c`},
	{"guest's backlog is full", `
			guest listen l 6000 0
			host dial c 6000
			host dial d 6000
			guest accept c l
			host dial d 6000
			guest accept d l`},
	{"guest does not answer for 6 s", `
			guest listen l 6000 16
			host open c
			start guest stall 6
			host send c "CONNECT 6000\n"
			wait 3
			finish guest stall 6
			host answer c
			guest accept c l
			host write c 100
			guest read c 100`},
	{"guest does not answer for 6 s, another connection after 3 s", `
			guest listen l 6000 16
			start guest stall 6
			host open c
			host send c "CONNECT 6000\n"
			wait 3
			host open d
			host send d "CONNECT 6000\n"
			host answer c
			finish guest stall 6
			host answer d
			guest accept c l
			guest rest c
			guest accept d l
			host write d 100
			guest read d 100`},
	{"guest does not answer for 6 s, another connection at once", `
			guest listen l 6000 16
			start guest stall 6
			host open c
			host send c "CONNECT 6000\n"
			host open d
			host send d "CONNECT 6000\n"
			finish guest stall 6
			host answer c
			host answer d`},
	{"data before the answer", `
			guest listen l 6000 16
			start guest stall 4
			host open c
			host send c "CONNECT 6000\n"
			host write c 100
			finish guest stall 4
			host answer c
			guest accept c l
			guest read c 100`},
	{"100 connections at once", `
			guest listen l 6000 128
			start guest echo l 100
			host crowd - 6000 100 10000
			finish guest echo l 100`},
}

// dialsOfTheGuest are connections to listeners of the host's.
var dialsOfTheGuest = []Case{
	{"guest dials a port without a listener", `
			guest dial c 7000`},
	{"guest dials a port whose listener has gone", `
			host listen l 7000 16
			guest dial c 7000
			host close l
			guest write c 100
			guest dial d 7000`},
	{"guest dials a listener that closes at once", `
			host listen l 7000 16
			guest dial c 7000
			host accept c l
			host close c
			guest rest c
			guest write c 100`},
	{"guest dials a listener that goes without accepting", `
			host listen l 7000 16
			guest dial c 7000
			guest write c 100
			settle
			host close l
			guest rest c
			guest write c 100`},
	{"guest dials a listener that accepts late", `
			host listen l 7000 16
			guest dial c 7000
			guest write c 100
			wait 3
			guest dial d 7000
			host accept c l
			host read c 100
			host accept d l
			host write d 100
			guest read d 100`},
	{"guest dials and closes before the host accepts", `
			host listen l 7000 16
			guest dial c 7000
			guest write c 100
			guest close c
			settle
			host accept c l
			host rest c
			host write c 100`},
	{"guest dials a listener with a full backlog, which then has room", `
			host listen l 7000 0
			guest dial c 7000
			start guest dial d 7000
			wait 0.5
			host accept c l
			finish guest dial d 7000
			host accept d l
			host write d 100
			guest read d 100`},
	{"guest dials a listener with a full backlog, which has room too late", `
			host listen l 7000 0
			guest dial c 7000
			start guest dial d 7000
			wait 3
			host accept c l
			finish guest dial d 7000
			host accept d l
			host rest d`},
	{"100 connections of the guest's at once", `
			host listen l 7000 128
			start host echo l 100
			guest crowd - 7000 100 10000
			finish host echo l 100`},
}
