package proxy

import "bytes"

// maxTemplate bounds the name of a route.
const maxTemplate = 96

// template appends to buf the name of a request's route: the method and the
// path, in which {id} stands for what looks like an identifier. It returns nil
// for a path that is too long or unusual to be a route's.
func template(buf, method, path []byte) []byte {
	if len(path) == 0 || path[0] != '/' {
		return nil
	}
	buf = append(append(buf, method...), ' ')
	for rest := path[1:]; ; {
		segment, after, more := bytes.Cut(rest, []byte("/"))
		buf = append(buf, '/')
		switch kindOf(segment) {
		case word:
			buf = append(buf, segment...)
		case identifier:
			buf = append(buf, "{id}"...)
		case unusual:
			return nil
		}
		if len(buf) > maxTemplate {
			return nil
		}
		if !more {
			return buf
		}
		rest = after
	}
}

type segmentKind uint8

const (
	word segmentKind = iota
	identifier
	unusual
)

// kindOf takes a segment with a digit in it for an identifier, unless it is a
// version such as v1.
func kindOf(segment []byte) segmentKind {
	digits, letters := 0, 0
	for _, c := range segment {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c|0x20 >= 'a' && c|0x20 <= 'z':
			letters++
		case c == '-' || c == '_' || c == '.' || c == '~' || c == ':' || c == '@':
		case c == '%':
			return identifier
		default:
			return unusual
		}
	}
	if digits == 0 || segment[0]|0x20 == 'v' && letters == 1 && digits == len(segment)-1 {
		return word
	}
	return identifier
}
