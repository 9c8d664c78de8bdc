package headgate

import (
	"errors"
	"fmt"
)

// Class sorts errors by what the caller can do about them.
type Class string

// The error classes of the HTTP contract.
const (
	ClassValidation        Class = "validation"
	ClassBusinessRule      Class = "business_rule"
	ClassTransient         Class = "transient"
	ClassPermanent         Class = "permanent"
	ClassSecuritySensitive Class = "security_sensitive"
)

// Stable error codes. Clients match on them; they never change.
const (
	CodeUnauthorized          = "AUTH_UNAUTHORIZED"
	CodeForbidden             = "AUTH_FORBIDDEN"
	CodeTenantScope           = "TENANT_SCOPE_VIOLATION"
	CodeValidation            = "REQ_VALIDATION_FAILED"
	CodeBodyTooLarge          = "REQ_BODY_TOO_LARGE"
	CodeMethodNotAllowed      = "REQ_METHOD_NOT_ALLOWED"
	CodeNotFound              = "RESOURCE_NOT_FOUND"
	CodeIdempotencyConflict   = "IDEMPOTENCY_CONFLICT"
	CodeReleasePolicyNotFound = "RELEASE_POLICY_NOT_FOUND"
	CodeReleaseNotFound       = "RELEASE_NOT_FOUND"
	CodeReleaseActive         = "RELEASE_ACTIVE"
	CodeReleaseDone           = "RELEASE_DONE"
	CodeServiceNotFound       = "SERVICE_NOT_FOUND"
	CodeJobNotFound           = "JOB_NOT_FOUND"
	CodeApprovalRequired      = "APPROVAL_REQUIRED"
	CodeStrategyFrozen        = "STRATEGY_FROZEN"
	CodeRolloutFrozen         = "ROLLOUT_FROZEN"
	CodeDigestQuarantined     = "DIGEST_QUARANTINED"
	CodeStaleEpoch            = "STALE_EPOCH"
	CodeConfigInvalid         = "CONFIG_INVALID"
	CodeUnavailable           = "UNAVAILABLE"
	CodeStorageFull           = "STORAGE_FULL"
	CodeStorageDamaged        = "STORAGE_DAMAGED"
	CodeInternal              = "INTERNAL"
)

// Error is the one domain error. Message tells a person what to do next and is
// safe to show to a client; the wrapped cause is for logs only.
type Error struct {
	Code      string
	Class     Class
	Message   string
	Retryable bool
	// Details are machine-readable facts, for example the offending fields.
	// They never hold request bodies or secrets.
	Details map[string]any
	cause   error
}

// Errorf returns an error with the class's usual retryability: only
// [ClassTransient] is worth repeating. A %w operand becomes the cause, whose
// text is part of the message.
func Errorf(code string, class Class, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Class: class, Message: err.Error(), Retryable: class == ClassTransient, cause: errors.Unwrap(err)}
}

// Invalidf returns a REQ_VALIDATION_FAILED error.
func Invalidf(format string, args ...any) *Error {
	return Errorf(CodeValidation, ClassValidation, format, args...)
}

// Wrap attaches a cause to e for logs, without showing it to clients.
func (e *Error) Wrap(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// With returns a copy of e with one more detail.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Details = make(map[string]any, len(e.Details)+1)
	for k, v := range e.Details {
		c.Details[k] = v
	}
	c.Details[key] = value
	return &c
}

// Error returns the code and the message.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is makes errors.Is match on the code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// AsError returns the domain error in err's chain; any other error becomes an
// INTERNAL one that shows nothing of its cause.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Errorf(CodeInternal, ClassPermanent, "internal error; the server's log has the cause under this request id").Wrap(err)
}
