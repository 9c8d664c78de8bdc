package headgate_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/headgate/headgate"
)

func TestErrorIsMatchedByCodeThroughWrapping(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("plan: %w", headgate.Errorf(headgate.CodeReleasePolicyNotFound, headgate.ClassBusinessRule, "no plan for %s; post one first", "rel_1"))
	if !errors.Is(err, &headgate.Error{Code: headgate.CodeReleasePolicyNotFound}) {
		t.Error("the code is not matched")
	}
	if errors.Is(err, &headgate.Error{Code: headgate.CodeReleaseNotFound}) {
		t.Error("another code is matched")
	}
}

func TestOnlyTransientErrorsAreWorthRepeating(t *testing.T) {
	t.Parallel()
	for _, class := range []headgate.Class{
		headgate.ClassValidation, headgate.ClassBusinessRule, headgate.ClassTransient,
		headgate.ClassPermanent, headgate.ClassSecuritySensitive,
	} {
		if got, want := headgate.Errorf("X", class, "x").Retryable, class == headgate.ClassTransient; got != want {
			t.Errorf("%s: retryable = %v, want %v", class, got, want)
		}
	}
}

func TestCauseIsForLogsOnly(t *testing.T) {
	t.Parallel()
	err := headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the store is busy; try again").Wrap(fs.ErrClosed)
	if strings.Contains(err.Error(), fs.ErrClosed.Error()) {
		t.Errorf("message %q shows its cause", err)
	}
	if !errors.Is(err, fs.ErrClosed) {
		t.Error("the cause is lost")
	}
}

func TestFormattedCauseIsShownAndKept(t *testing.T) {
	t.Parallel()
	err := headgate.Invalidf("headgate.yaml: %w", fs.ErrNotExist)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Message, "file does not exist") {
		t.Errorf("error %v", err)
	}
}

func TestUnknownErrorsShowNothing(t *testing.T) {
	t.Parallel()
	secret := errors.New("password hunter2 refused")
	err := headgate.AsError(secret)
	if err.Code != headgate.CodeInternal || strings.Contains(err.Error(), "hunter2") || !errors.Is(err, secret) {
		t.Errorf("error %v: want INTERNAL without the cause's text, and the cause for logs", err)
	}
	known := headgate.Invalidf("x")
	if got := headgate.AsError(fmt.Errorf("wrapped: %w", known)); got != known {
		t.Errorf("got %v, want the domain error itself", got)
	}
}

func TestDetailsDoNotLeakBetweenCopies(t *testing.T) {
	t.Parallel()
	base := headgate.Invalidf("x").With("field", "a")
	other := base.With("field", "b").With("line", 3)
	if base.Details["field"] != "a" || len(base.Details) != 1 || other.Details["field"] != "b" || other.Details["line"] != 3 {
		t.Errorf("base %v, other %v", base.Details, other.Details)
	}
}
