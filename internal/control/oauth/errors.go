package oauth

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/stricthttp"
)

// Code is an error in the protocol's own word.
type Code string

// The words: RFC 6749, sections 4.1.2.1 and 5.2, RFC 8707, RFC 9396, RFC 9449.
const (
	invalidRequest  Code = "invalid_request"
	invalidClient   Code = "invalid_client"
	invalidGrant    Code = "invalid_grant"
	unauthorized    Code = "unauthorized_client"
	unsupported     Code = "unsupported_grant_type"
	unsupportedType Code = "unsupported_response_type"
	invalidScope    Code = "invalid_scope"
	invalidTarget   Code = "invalid_target"
	invalidDetails  Code = "invalid_authorization_details"
	invalidProof    Code = "invalid_dpop_proof"
	needNonce       Code = "use_dpop_nonce"
	accessDenied    Code = "access_denied"
	serverError     Code = "server_error"
	unavailable     Code = "temporarily_unavailable"
	invalidMetadata Code = "invalid_client_metadata"
	invalidRedirect Code = "invalid_redirect_uri"
)

// refusal is an error on its way to a client. Its words are ours: nothing a
// client sent is repeated in them.
type refusal struct {
	code  Code
	words string
	cause error
}

func (r *refusal) Error() string {
	if r.cause != nil {
		return string(r.code) + ": " + r.words + ": " + r.cause.Error()
	}
	return string(r.code) + ": " + r.words
}
func (r *refusal) Unwrap() error { return r.cause }

func refuse(code Code, words string) *refusal { return &refusal{code: code, words: words} }

func (r *refusal) because(err error) *refusal { r.cause = err; return r }

// understood turns an error of a lower floor into the protocol's words. What
// a client may not know is only in the cause.
func understood(err error, otherwise Code) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	e := ostiary.AsError(err)
	switch {
	case e.Code == "use_dpop_nonce":
		return refuse(needNonce, "the proof must hold the nonce that comes with this answer")
	case e.Code == "dpop_proof":
		return refuse(invalidProof, "the DPoP proof was not accepted").because(err)
	case e.Kind == ostiary.Unavailable, e.Kind == ostiary.Exhausted:
		return refuse(unavailable, "try again later").because(err)
	case e.Kind == ostiary.Malformed, e.Kind == ostiary.Denied, e.Kind == ostiary.NotFound, e.Kind == ostiary.Conflict, e.Kind == ostiary.Unauthenticated, e.Kind == ostiary.Contained:
		return refuse(otherwise, "it was not accepted").because(err)
	}
	return refuse(serverError, "internal error").because(err)
}

// status maps every code.
func (r *refusal) status() int {
	switch r.code {
	case invalidClient:
		return http.StatusUnauthorized
	case serverError:
		return http.StatusInternalServerError
	case unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}

// fail answers with an error and counts it: there is no entry for somebody
// who is nobody yet.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err *refusal) {
	s.o.Refused(stricthttp.Source(r), "oauth:"+string(err.code))
	if err.code == serverError || err.code == unavailable && err.cause != nil { // without a cause somebody only asks too often
		s.o.Logger.Error("an authorization request failed", "error", err)
	} else {
		s.o.Logger.Debug("an authorization request was refused", "error", err)
	}
	switch err.code {
	case needNonce, invalidProof:
		w.Header().Set("DPoP-Nonce", s.o.Authority.ProofNonce())
	case invalidClient:
		w.Header().Set("WWW-Authenticate", `DPoP algs="ES256"`)
	case unavailable:
		w.Header().Set("Retry-After", "1")
	}
	s.write(w, err.status(), map[string]string{"error": string(err.code), "error_description": err.words})
}

// page tells a person that a request went wrong before it was known where
// else to say so. It is text, and nothing of it is the client's.
func (s *Server) page(w http.ResponseWriter, r *http.Request, err *refusal) {
	s.o.Refused(stricthttp.Source(r), "oauth:"+string(err.code))
	s.o.Logger.Info("an authorization request was refused", "error", err)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(err.status())
	w.Write([]byte("The program that sent you here made a request that is not accepted: " + err.words + " (" + string(err.code) + ").\n"))
}

// back sends a browser back to the client, with iss in every answer; see RFC
// 9207.
func (s *Server) back(redirect, state string, params map[string]string) (string, error) {
	u, err := url.Parse(redirect)
	if err != nil {
		return "", err
	}
	q := u.Query()
	for name, v := range params {
		q.Set(name, v)
	}
	if state != "" {
		q.Set("state", state)
	}
	q.Set("iss", s.o.URL)
	u.RawQuery = q.Encode()
	return u.String(), nil
}
