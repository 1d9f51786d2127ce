package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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

// Choice returns a flag that takes one of the choices, which the help lists.
func Choice(name, value, usage string, choices ...string) *urfave.StringFlag {
	flag := String(name, value, usage+": "+strings.Join(choices, ", "))
	flag.Category = CategoryOutput
	flag.Action = func(_ *Context, given string) error {
		if slices.Contains(choices, given) {
			return nil
		}
		return Usagef("--%s is %q, and must be one of %s", name, given, strings.Join(choices, ", "))
	}
	return flag
}

// Output returns the flag --output for the given formats, the first of which
// is the default.
func Output(formats ...string) Flag {
	return Choice("output", formats[0], "`FORMAT` of the result", formats...)
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

// DurationFrom returns a Duration flag that refuses less than the minimum.
func DurationFrom(least time.Duration, name string, value time.Duration, usage string) *urfave.DurationFlag {
	flag := Duration(name, value, usage)
	flag.Action = func(_ *Context, given time.Duration) error {
		switch {
		case given >= least:
			return nil
		case least == 0:
			return Usagef("--%s must not be negative", name)
		}
		return Usagef("--%s must be at least %v", name, least)
	}
	return flag
}

// Timeout returns the flag --timeout.
func Timeout(value time.Duration) *urfave.DurationFlag {
	flag := Duration("timeout", value, "`DURATION` limit for all steps together")
	flag.Action = func(_ *Context, given time.Duration) error {
		if given <= 0 {
			return Usagef("--timeout must be positive, such as 30s")
		}
		return nil
	}
	return flag
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
	return flags
}
