package verify_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/ostiary/ostiary/verify"
)

// A tool server mounts the middleware in front of its handler. A call that
// did not come through the gateway is refused.
func ExampleVerifier_Middleware() {
	// The gateway's public keys, as "ostiary" prints them.
	keys, err := verify.ParseKeys([]byte(`
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
`))
	if err != nil {
		panic(err)
	}
	v, err := verify.New(verify.Options{Keys: keys})
	if err != nil {
		panic(err)
	}
	tools := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "cleared by entry", verify.Entry(r.Context()))
	})
	handler := v.Middleware(tools)

	direct := httptest.NewRequest("POST", "http://tools.test/mcp", strings.NewReader(`{"method":"tools/call"}`))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, direct)
	fmt.Print(w.Code, " ", w.Body)
	// Output: 401 {"error":"it is missing: this server takes calls through its gateway only","field":"Signature-Input"}
}
