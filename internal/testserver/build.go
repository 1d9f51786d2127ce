package testserver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
)

// Build builds a program of cmd/ into the folder: as it is released or, where
// the test itself has the race detector, with the race detector.
func Build(dir, program string) (path string, err error) {
	path = filepath.Join(dir, program)
	args, env := []string{"build", "-tags", "disable_grpc_modules", "-o", path}, os.Environ()
	if raceDetector() {
		args = append(args, "-race")
	} else {
		args, env = append(args, "-trimpath", "-ldflags", "-s -w"), append(env, "CGO_ENABLED=0")
	}
	cmd := exec.Command("go", append(args, "oidc-publisher/cmd/"+program)...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
