package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server"
	"github.com/headgate/headgate/store/sqlite"
)

func newKeysCommand(a *app) *cobra.Command {
	var reason string
	rotate := &cobra.Command{
		Use:   "rotate DIR --reason TEXT",
		Short: "Sign with a new key from now on",
		Long: "Make a new signing key in a server's data folder and destroy the old private key. The server must not be running.\n" +
			"What the old key signed stays valid; auditors must be told the new key, which is printed, by another way than a bundle.",
		Example: "  headgate keys rotate /var/lib/headgate --reason 'yearly'",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if reason == "" {
				return usageError{fmt.Errorf("--reason is needed: it enters the audit trail")}
			}
			return a.rotateKey(c.Context(), args[0], reason)
		},
	}
	rotate.Flags().StringVar(&reason, "reason", "", "why, for the audit trail (required)")
	return group("keys", "Look after the key that signs evidence", rotate)
}

func (a *app) rotateKey(ctx context.Context, dir, reason string) (err error) {
	if _, err := os.Stat(filepath.Join(dir, "headgate.db")); err != nil {
		return headgate.Invalidf("%s is not a server's data folder: it holds no headgate.db", dir)
	}
	db, err := sqlite.Open(ctx, dir) // refused while a server runs
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	keys, err := server.OpenKeys(ctx, db, dir)
	if err != nil {
		return err
	}
	old := keys.Current()
	next, err := keys.Rotate()
	if err != nil {
		return err
	}
	// The server signs this with the new key when it starts.
	err = db.Record(ctx, "key_rotated/"+next.ID(), headgate.Event{
		Time: time.Now().UTC(), Kind: "key_rotated", Actor: "headgate keys rotate", Reason: reason,
		Message: "key " + next.ID() + " signs in place of " + old.ID(), Data: map[string]any{"key": next.String(), "replaces": old.String()},
	})
	fmt.Fprintln(a.stdout, next)
	return err
}
