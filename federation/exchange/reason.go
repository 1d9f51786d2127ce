package exchange

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxReason bounds a service's text in an error, in bytes.
	maxReason = 400
	// maxRaw bounds what of it is looked at.
	maxRaw = 4 << 10
	masked = "[masked]"
	// share is how many characters in a row give a secret away.
	share = 12
)

// clean makes a stranger's text fit for an error: one line, printable, short,
// without the secrets, without pieces of them, and without whatever else looks
// like a token.
func clean(text string, secrets ...string) string {
	if len(text) > maxRaw {
		text = text[:maxRaw]
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
	text = maskTokens(text)
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

// maskShared masks whatever text and secret have in common.
func maskShared(text, secret string) string {
	if secret == "" {
		return text
	}
	n := min(share, len(secret))
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

// maskTokens masks runs of characters that look like a JWT or like an opaque
// access token.
func maskTokens(text string) string {
	var out strings.Builder
	for text != "" {
		start := strings.IndexFunc(text, tokenRune)
		if start < 0 {
			out.WriteString(text)
			break
		}
		out.WriteString(text[:start])
		text = text[start:]
		end := strings.IndexFunc(text, func(r rune) bool { return !tokenRune(r) })
		if end < 0 {
			end = len(text)
		}
		if tokenLike(text[:end]) {
			out.WriteString(masked)
		} else {
			out.WriteString(text[:end])
		}
		text = text[end:]
	}
	return out.String()
}

func tokenRune(r rune) bool {
	return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_.~+=", r))
}

// tokenLike: base64 of a JSON object begins with "ey" and a capital, or with
// "ew"; opaque tokens mix cases and digits over a length that names of things
// do not have.
func tokenLike(run string) bool {
	for part := range strings.SplitSeq(run, ".") {
		part = strings.Trim(part, "-_~+=")
		if opaque(part) {
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

// cloudsmithReason reads ErrorDetail of Cloudsmith's API description. A member
// of another form does not hide the others.
func cloudsmithReason(body []byte) (code, text string) {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil {
		return "", ""
	}
	var detail string
	for _, name := range []string{"error", "detail"} {
		var given string
		if json.Unmarshal(members[name], &given) == nil && given != "" {
			detail = given
		}
	}
	parts := []string{detail}
	var fields map[string][]string
	if json.Unmarshal(members["fields"], &fields) != nil {
		return "", detail
	}
	const most = 5
	for i, name := range slices.Sorted(maps.Keys(fields)) {
		if i == most {
			break
		}
		parts = append(parts, name+": "+strings.Join(fields[name], " "))
	}
	return "", joined("; ", parts...)
}

// googleReason reads what STS answers (RFC 6749 section 5.2) and what Google's
// other services do (google.rpc.Status).
func googleReason(body []byte) (code, text string) {
	var answer struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return "", ""
	}
	if json.Unmarshal(answer.Error, &code) == nil {
		return code, answer.Description
	}
	var status struct {
		Message string `json:"message"`
		Status  string `json:"status"`
		Details []struct {
			Reason   string `json:"reason"`
			Metadata struct {
				Permission string `json:"permission"`
			} `json:"metadata"`
		} `json:"details"`
	}
	if json.Unmarshal(answer.Error, &status) != nil {
		return "", ""
	}
	text = status.Message
	for _, detail := range status.Details {
		if reason := joined(" ", detail.Reason, detail.Metadata.Permission); reason != "" && !strings.Contains(text, reason) {
			text = joined(" ", text, "("+reason+")")
			break
		}
	}
	return status.Status, text
}
