package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"
)

// CategoryOutput is the heading of flags about output and logs.
const CategoryOutput = "Output"

// Env returns the environment variable of a flag.
func Env(flag string) []string {
	return []string{"OIDC_PUBLISHER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
}

// String returns a flag that takes one text.
func String(name, value, usage string) *urfave.StringFlag {
	return &urfave.StringFlag{Name: name, Value: value, Usage: usage, EnvVars: Env(name)}
}

// Bool returns a switch, which is off by default.
func Bool(name, usage string) *urfave.BoolFlag {
	return &urfave.BoolFlag{Name: name, Usage: usage, EnvVars: Env(name), DisableDefaultText: true}
}

// Duration returns a flag that takes a duration with a unit, such as 30s.
func Duration(name string, value time.Duration, usage string) *urfave.DurationFlag {
	return &urfave.DurationFlag{Name: name, Value: value, DefaultText: shortDuration(value), Usage: usage, EnvVars: Env(name)}
}

// List returns a flag that may be given several times; Values reads it.
func List(name, usage string) *urfave.StringSliceFlag {
	return &urfave.StringSliceFlag{Name: name, Usage: usage, EnvVars: Env(name)}
}

// Setting returns a flag with environment variables of its own; repeatable
// makes it a List.
func Setting(name, usage string, env []string, repeatable bool) Flag {
	if repeatable {
		return &urfave.StringSliceFlag{Name: name, Usage: usage, EnvVars: env}
	}
	return &urfave.StringFlag{Name: name, Usage: usage, EnvVars: env}
}

// Values returns the values of a List flag. On the command line each occurrence
// is one value, commas included; in the environment commas separate values.
func Values(c *Context, name string) []string {
	values := c.StringSlice(name)
	if fromEnv := os.Getenv(Env(name)[0]); len(values) == 1 && values[0] == fromEnv {
		values = strings.Split(fromEnv, ",")
	}
	return values
}

// CommaValues returns the values of a List flag whose values contain no comma:
// commas separate values on the command line too.
func CommaValues(c *Context, name string) (values []string) {
	for _, given := range c.StringSlice(name) {
		for value := range strings.SplitSeq(given, ",") {
			if value = strings.TrimSpace(value); value != "" {
				values = append(values, value)
			}
		}
	}
	return values
}

// Timeout returns the flag --timeout.
func Timeout() *urfave.DurationFlag {
	return Duration("timeout", 30*time.Second, "`DURATION` limit for all steps together")
}

// CheckTimeout refuses a --timeout that is not positive.
func CheckTimeout(c *Context) error {
	if c.Duration("timeout") <= 0 {
		return Usagef("--timeout must be positive, such as 30s")
	}
	return nil
}

// Overtime adds --timeout to the error of a step that exceeded it.
func Overtime(err error, limit time.Duration) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w (--timeout is %s, all steps together)", err, shortDuration(limit))
}

// InCategory lists the flags under a heading in the help.
func InCategory(category string, flags ...Flag) []Flag {
	for _, flag := range flags {
		Categorise(flag, category)
	}
	return flags
}

// Categorise lists one flag under a heading in the help.
func Categorise(flag Flag, category string) {
	switch flag := flag.(type) {
	case *urfave.StringFlag:
		flag.Category = category
	case *urfave.BoolFlag:
		flag.Category = category
	case *urfave.DurationFlag:
		flag.Category = category
	case *urfave.StringSliceFlag:
		flag.Category = category
	}
}
