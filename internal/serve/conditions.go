package serve

import "strings"

// prefersGzip reads Accept-Encoding (RFC 9110 section 12.5.3): gzip is sent
// where it is accepted, by name or by *, and no less wanted than the plain body.
func prefersGzip(values []string) bool {
	named, others, plain := -1, -1, -1 // thousandths, -1 for not mentioned
	for _, value := range values {
		for value != "" {
			var element string
			element, value, _ = strings.Cut(value, ",")
			coding, parameters, _ := strings.Cut(element, ";")
			quality := quality(parameters)
			switch coding = strings.Trim(coding, " \t"); {
			case strings.EqualFold(coding, "gzip"), strings.EqualFold(coding, "x-gzip"):
				named = quality
			case strings.EqualFold(coding, "identity"):
				plain = quality
			case coding == "*":
				others = quality
			}
		}
	}
	if named < 0 {
		named = others
	}
	return named > 0 && named >= plain
}

// quality is the weight in thousandths, 1000 where there is none, and 0 where
// it can't be read: then the coding is better left alone.
func quality(parameters string) int {
	parameters = strings.Trim(parameters, " \t")
	if parameters == "" {
		return 1000
	}
	name, value, _ := strings.Cut(parameters, "=")
	if !strings.EqualFold(strings.Trim(name, " \t"), "q") {
		return 0
	}
	value = strings.Trim(value, " \t")
	if len(value) == 0 || len(value) > 5 || len(value) > 1 && value[1] != '.' || value[0] != '0' && value[0] != '1' {
		return 0
	}
	weight, unit := int(value[0]-'0')*1000, 100
	for i := 2; i < len(value); i++ {
		if value[i] < '0' || value[i] > '9' {
			return 0
		}
		weight += int(value[i]-'0') * unit
		unit /= 10
	}
	return min(weight, 1000)
}

// anyTag reads If-None-Match (RFC 9110 section 13.1.2) and compares weakly. What
// is malformed matches nothing, and ends its line.
func anyTag(lines []string, tag string) bool {
	for _, line := range lines {
		for {
			line = strings.TrimLeft(line, " \t,")
			if line == "*" || strings.HasPrefix(line, "* ") {
				return true
			}
			line = strings.TrimPrefix(line, "W/")
			if line == "" || line[0] != '"' {
				break
			}
			end := strings.IndexByte(line[1:], '"')
			if end < 0 {
				break
			}
			if line[:end+2] == tag {
				return true
			}
			line = line[end+2:]
		}
	}
	return false
}
