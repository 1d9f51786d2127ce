package httpx

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	masked = "[masked]"
	// maxForeign bounds untrusted text in an error, in bytes.
	maxForeign = 400
	// maxClipped bounds a foreign name or sentence within a message, in bytes.
	maxClipped = 200
	// maxScanned bounds how much of an untrusted text is examined.
	maxScanned = 4 << 10
	// minShared is the length in bytes from which a part of a secret is masked.
	minShared = 12
)

// MaskTokens masks JWTs in output: a token given in place of a path or a name
// would otherwise appear in errors. It keeps key IDs.
func MaskTokens(text string) string { return maskRuns(text, jwtStart) }

// MaskForeign prepares the text of a remote side for an error: one short
// printable line, without the secrets, without parts of them, and without
// anything else that looks like a token.
func MaskForeign(text string, secrets ...string) string {
	if len(text) > maxScanned {
		text = text[:maxScanned]
	}
	var line strings.Builder
	for _, r := range text {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = ' '
		}
		line.WriteRune(r)
	}
	text = strings.Join(strings.Fields(line.String()), " ")
	for _, secret := range secrets {
		text = maskShared(text, secret)
	}
	text = maskRuns(text, func(run string) int {
		if tokenLike(run) {
			return 0
		}
		return -1
	})
	return clip(text, maxForeign)
}

// Clip bounds foreign text. The result is always printed quoted or through a
// renderer that escapes control characters.
func Clip(text string) string { return clip(text, maxClipped) }

func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// Quote lists foreign strings: quoted, clipped, and at most ten.
func Quote(list []string) string {
	quotes := make([]string, len(list))
	for i, s := range list {
		quotes[i] = strconv.Quote(Clip(s))
	}
	return Few(quotes, ", ")
}

// Few joins the first ten texts and says how many follow.
func Few(list []string, separator string) string {
	const most = 10
	if more := len(list) - most; more > 0 {
		list = append(slices.Clone(list[:most]), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(list, separator)
}

// maskShared masks every part that text and secret have in common.
func maskShared(text, secret string) string {
	if secret == "" {
		return text
	}
	n := min(minShared, len(secret))
	var out strings.Builder
	for i := 0; i < len(text); {
		end := i
		for end+n <= len(text) && strings.Contains(secret, text[end:end+n]) {
			end++
		}
		if end == i {
			out.WriteByte(text[i])
			i++
			continue
		}
		out.WriteString(masked)
		i = end + n - 1
	}
	return out.String()
}

// maskRuns masks each run of characters that occur in tokens, starting at the
// index that secret returns; -1 masks nothing.
func maskRuns(text string, secret func(run string) int) string {
	var out strings.Builder
	for text != "" {
		rest := strings.TrimLeftFunc(text, inToken)
		if run := text[:len(text)-len(rest)]; run != "" {
			if at := secret(run); at >= 0 {
				run = run[:at] + masked
			}
			out.WriteString(run)
		}
		end := strings.IndexFunc(rest, inToken)
		if end < 0 {
			end = len(rest)
		}
		out.WriteString(rest[:end])
		text = rest[end:]
	}
	return out.String()
}

func inToken(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.+=~", r)
}

// jwtStart returns where in a run a JWT begins. Header and claims are JSON
// objects, so each begins with "eyJ", or with "ey" or "ew" where the brace is
// followed by white space.
func jwtStart(run string) int {
	const shortest = 12
	if at := strings.Index(run, "eyJ"); at >= 0 && len(run)-at >= shortest {
		return at
	}
	parts := strings.Split(run, ".")
	if (strings.HasPrefix(run, "ey") || strings.HasPrefix(run, "ew")) && len(parts) > 2 && len(parts[0]) >= shortest && len(parts[1]) >= shortest {
		return 0
	}
	return -1
}

// tokenLike recognises pieces of JWTs and opaque tokens: base64 of a JSON
// object begins with "ey" and a capital, or with "ew"; opaque tokens mix cases
// and digits and are longer than ordinary names.
func tokenLike(run string) bool {
	for part := range strings.SplitSeq(run, ".") {
		if opaque(strings.Trim(part, "-_~+=")) {
			return true
		}
	}
	for _, start := range []string{"ey", "ew"} {
		for rest := run; ; {
			_, after, found := strings.Cut(rest, start)
			if !found {
				break
			}
			if len(after) >= 10 && !strings.ContainsAny(after[:10], ".~+=") && (start == "ey" && 'A' <= after[0] && after[0] <= 'Z' || mixed(after[:10])) {
				return true
			}
			rest = after
		}
	}
	return false
}

func opaque(part string) bool {
	return len(part) >= 28 && mixed(part) && strings.ContainsAny(part, "0123456789")
}

func mixed(s string) bool {
	return strings.ContainsFunc(s, unicode.IsLower) && strings.ContainsFunc(s, unicode.IsUpper)
}

// ShellQuote returns any text as one word of a POSIX shell.
func ShellQuote(s string) string {
	special := func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("@%+=:,./_-", r)
	}
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
