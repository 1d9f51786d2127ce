package testserver

import (
	"flag"
	"testing"
)

// atOnce is how many tests of a package run at the same time.
const atOnce = "8"

// Main runs the tests of a package that spend most of their time waiting for
// servers: several at a time, unless -parallel is given. It returns the exit code.
func Main(m *testing.M) int {
	if !flag.Parsed() {
		flag.Parse()
	}
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", atOnce); err != nil {
			panic(err)
		}
	}
	return m.Run()
}
