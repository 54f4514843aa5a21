package kernel

import "strings"

// compareVersions orders kernel releases as people do: runs of digits by their value, everything else byte by byte, so that
// 6.1.0-9 comes before 6.1.0-56, and a release candidate (6.1~rc1, 6.1-rc1) before the release.
func compareVersions(a, b string) int {
	for a != "" || b != "" {
		var ta, tb string
		ta, a = versionToken(a)
		tb, b = versionToken(b)
		if c := compareTokens(ta, tb); c != 0 {
			return c
		}
	}
	return 0
}

func compareTokens(a, b string) int {
	if a == b {
		return 0
	}
	if isDigits(a) && isDigits(b) {
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		if len(a) != len(b) {
			return sign(len(a) - len(b))
		}
		return strings.Compare(a, b)
	}
	ra, rb := isCandidate(a), isCandidate(b)
	if ra != rb {
		if ra {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}

func isCandidate(s string) bool { return strings.HasPrefix(s, "~") || strings.HasPrefix(s, "-rc") }

func isDigits(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// versionToken splits off the leading run of digits or of anything else.
func versionToken(s string) (token, rest string) {
	digits := isDigits(s)
	for i := range len(s) {
		if isDigits(s[i:]) != digits {
			return s[:i], s[i:]
		}
	}
	return s, ""
}
