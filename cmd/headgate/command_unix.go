//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// inGroup gives the command a process group, so that what it starts is killed
// with it.
func inGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
