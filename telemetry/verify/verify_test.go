package verify_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry/events"
	"github.com/headgate/headgate/telemetry/metrics"
	"github.com/headgate/headgate/telemetry/verify"
)

func TestDataFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := verify.Dir(t.Context(), dir, false); headgate.AsError(err).Code != headgate.CodeNotFound {
		t.Errorf("an empty folder: %v", err)
	}
	m, err := metrics.Open(filepath.Join(dir, "metrics"), metrics.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := events.Open(filepath.Join(dir, "events"), events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	td := ptrace.NewTraces()
	td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty().SetName("work")
	if _, err := e.AppendTraces(t.Context(), "", td); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := verify.Dir(t.Context(), dir, true); headgate.AsError(err).Code != headgate.CodeUnavailable {
		t.Errorf("under a running server: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if found, err := verify.Dir(t.Context(), dir, false); err != nil || len(found) != 0 {
		t.Errorf("intact stores: %+v, %v", found, err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "events", "*.db"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte("this is not a database, whatever its name may say"), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := verify.Dir(t.Context(), dir, false); err != nil || len(found) != 1 || found[0].Store != "events" || found[0].File != files[0] {
		t.Errorf("found %+v, %v", found, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := verify.Dir(ctx, dir, false); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
