package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/server"
	"github.com/headgate/headgate/store/sqlite"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/verify"
)

func newStoreCommand(a *app) *cobra.Command {
	return group("store", "Look after the data folder", newStoreVerifyCommand(a))
}

func newStoreVerifyCommand(a *app) *cobra.Command {
	var repair bool
	var output string
	c := &cobra.Command{
		Use:   "verify DIR",
		Short: "Look for damage in a data folder",
		Long: "Read everything in a server's data folder and name what is damaged: the database, the evidence log, whose Merkle\n" +
			"tree is computed again, the evidence files, and the telemetry. The server must not be running. With --repair, what\n" +
			"is damaged in the telemetry is set aside, so that the rest can be read; nothing else that is damaged is changed. The\n" +
			"database of an older version is first brought up to this one, as by headgate serve: keep a copy if the older version\n" +
			"is to read it again. Evidence files that are in a bucket are read there, with the server's HEADGATE_EVIDENCE_ variables.\n\n" +
			"Exit codes: 0 sound or repaired, 1 damage is left, one line each, or the folder cannot be checked, 2 usage.",
		Example: "  headgate store verify /var/lib/headgate",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			settings, err := config.LoadSettings(config.Sources{Environ: a.environ})
			if err != nil {
				return err
			}
			v := &storeCheck{dir: args[0], settings: settings, repair: repair}
			if err := v.run(c.Context()); err != nil {
				return err
			}
			return a.showStoreCheck(v, output)
		},
	}
	c.Flags().BoolVar(&repair, "repair", false, "set damaged telemetry aside, so that the rest can be read")
	outputFlag(c.Flags(), &output)
	return c
}

// storeCheck is a data folder being read.
type storeCheck struct {
	dir      string
	settings config.Settings // say where the evidence files are
	repair   bool

	found      []telemetry.Damage
	checkpoint evidence.Checkpoint
	files      int
}

// run reads all stores. An error is why the folder could not be read, not what
// is wrong in it.
func (v *storeCheck) run(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(v.dir, "headgate.db")); err != nil {
		return headgate.Invalidf("%s is not a server's data folder: it holds no headgate.db", v.dir)
	}
	db, err := sqlite.Open(ctx, v.dir)
	switch {
	case err == nil:
		defer func() { _ = db.Close() }() // nothing was written
		if err := errors.Join(v.database(ctx, db), v.evidence(ctx, db)); err != nil {
			return err
		}
	case headgate.AsError(err).Code == headgate.CodeUnavailable:
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"a server is running on %s; stop it first, for what it is writing cannot be checked", v.dir).Wrap(err)
	default:
		v.add("database", filepath.Join(v.dir, "headgate.db"), "it cannot be opened: "+err.Error())
	}
	return errors.Join(v.evidenceFiles(ctx), v.telemetry(ctx))
}

func (v *storeCheck) add(store, where, what string) {
	v.found = append(v.found, telemetry.Damage{Store: store, File: where, What: what})
}

func (v *storeCheck) database(ctx context.Context, db *sqlite.DB) error {
	lines, err := db.Check(ctx)
	for _, line := range lines {
		v.add("database", filepath.Join(v.dir, "headgate.db"), line)
	}
	return v.unreadable(ctx, "database", "headgate.db", err)
}

func (v *storeCheck) evidence(ctx context.Context, db *sqlite.DB) error {
	dir := filepath.Join(v.dir, "keys")
	_, err := os.Stat(filepath.Join(dir, "current")) // without it a new key would be made
	var keys *evidence.Keyring
	if err == nil {
		keys, err = evidence.OpenKeyring(dir, "headgate")
	}
	if err != nil {
		return v.unreadable(ctx, "evidence log", "keys", err)
	}
	var found []evidence.Damage
	v.checkpoint, found, err = evidence.CheckLog(ctx, db.EvidenceLog(), keys.Public())
	for _, d := range found {
		v.add("evidence log", d.Where, d.What)
	}
	return v.unreadable(ctx, "evidence log", "headgate.db", err)
}

func (v *storeCheck) evidenceFiles(ctx context.Context) error {
	blobs, err := server.OpenBlobs(ctx, v.settings, v.dir)
	if err != nil {
		return v.unreadable(ctx, "evidence files", "blobs", err)
	}
	var found []evidence.Damage
	v.files, found, err = blobs.Check(ctx)
	for _, d := range found {
		v.add("evidence files", d.Where, d.What)
	}
	return v.unreadable(ctx, "evidence files", "blobs", err)
}

func (v *storeCheck) telemetry(ctx context.Context) error {
	found, err := verify.Dir(ctx, v.dir, v.repair)
	v.found = append(v.found, found...)
	if headgate.AsError(err).Code == headgate.CodeNotFound {
		err = nil // none has arrived yet
	}
	return v.unreadable(ctx, "telemetry", "", err)
}

// unreadable makes an error of a store its damage, unless the check itself was
// given up.
func (v *storeCheck) unreadable(ctx context.Context, store, where string, err error) error {
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	v.add(store, filepath.Join(v.dir, where), "it cannot be read to its end: "+err.Error())
	return nil
}

func (a *app) showStoreCheck(v *storeCheck, output string) error {
	left := 0
	for _, d := range v.found {
		if d.Repair == "" {
			left++
		}
	}
	if output == outputJSON {
		found := append([]telemetry.Damage{}, v.found...)
		if err := writeJSON(a.stdout, map[string]any{"damage": found, "log_size": v.checkpoint.Size, "log_root": v.checkpoint.Root.String(), "files": v.files}); err != nil {
			return err
		}
	} else {
		for _, d := range v.found {
			fmt.Fprintln(a.stdout, damageLine(d))
		}
		if left == 0 {
			fmt.Fprintf(a.stdout, "%s is sound: evidence log of %d entries with root %s, %d evidence files\n", v.dir, v.checkpoint.Size, v.checkpoint.Root, v.files)
		}
	}
	if left > 0 {
		fmt.Fprintln(a.stderr, "damaged telemetry can be mended with --repair; the rest has to come from a backup")
		return exitCode(exitError)
	}
	return nil
}

func damageLine(d telemetry.Damage) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s: ", d.Store, d.File)
	if d.Block != 0 {
		fmt.Fprintf(&b, "block %d: ", d.Block)
	}
	b.WriteString(d.What)
	if d.Rows != 0 {
		fmt.Fprintf(&b, " (%d rows)", d.Rows)
	}
	if d.Repair != "" {
		b.WriteString("; " + d.Repair)
	}
	return printable(b.String())
}
