package proxy

import (
	"log/slog"
	"strings"
)

// connectionLog takes what fasthttp tells of broken connections.
type connectionLog struct{ *slog.Logger }

func (l connectionLog) Printf(_ string, args ...any) {
	for _, a := range args {
		if err, ok := a.(error); ok {
			l.Debug("a client's connection ended", "err", unquoted(err))
		}
	}
}

// unquoted returns an error of fasthttp's without what it quotes: that is the
// other side's words, which can hold a credential or a body, also with its
// SecureErrorLogMessage.
func unquoted(err error) string {
	said, _, _ := strings.Cut(err.Error(), `"`)
	return said
}
