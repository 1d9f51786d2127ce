package exchange

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// cloudsmithReason parses ErrorDetail of Cloudsmith's API. It ignores each
// member of an unexpected type.
func cloudsmithReason(body []byte) (code, text string) {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(body, &members)
	var detail string
	for _, name := range []string{"error", "detail"} {
		var given string
		if json.Unmarshal(members[name], &given) == nil && given != "" {
			detail = given
		}
	}
	parts := []string{detail}
	var fields map[string][]string
	_ = json.Unmarshal(members["fields"], &fields)
	names := slices.Sorted(maps.Keys(fields))
	const most = 5
	for _, name := range names[:min(len(names), most)] {
		parts = append(parts, name+": "+strings.Join(fields[name], " "))
	}
	return "", joined("; ", parts...)
}

// googleReason parses the errors of STS (RFC 6749 section 5.2) and of Google's
// other services (google.rpc.Status).
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
