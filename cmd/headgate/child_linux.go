package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes the kernel end the process when this one is killed, so
// that kill -9 leaves nothing behind.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
