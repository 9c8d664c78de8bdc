// Package bidding is the domain of the reference service: a small but real
// evaluation of bids against a tender. Documents are parsed into pages,
// passages are retrieved with BM25, rules score each criterion, and every
// statement cites document, page and span.
//
// It is deterministic and needs no model, so its quality can be computed. It
// owns the domain only: it never does I/O beyond its embedded files, never
// reads a clock, and knows nothing of HTTP, SQL or the release pipeline.
package bidding
