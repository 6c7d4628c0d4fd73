package signing

import (
	"testing"
	"time"
)

func TestKeygenSignVerify(t *testing.T) {
	for _, algorithm := range []string{"ecdsa", "ecdsa-p384", "ecdsa-p521", "rsa-2048", "ed25519"} {
		t.Run(algorithm, func(t *testing.T) {
			keyPEM, certPEM, err := Keygen("team", algorithm)
			if err != nil {
				t.Fatal(err)
			}
			key, err := ParseKey(keyPEM)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := ParseCertificate(certPEM)
			if err != nil {
				t.Fatal(err)
			}
			object := []byte("\x7fELF object")
			signature, err := Sign(object, key, cert)
			if err != nil {
				t.Fatal(err)
			}
			trust, err := ParseTrust(map[string][]byte{"team.pem": certPEM})
			if err != nil {
				t.Fatal(err)
			}
			b := Bundle{Object: object, ObjectFile: "x.o", Signature: signature}
			v, err := trust.Verify(b, []string{"team"}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", v.Signer())
			b.Object = append([]byte("x"), object...)
			if _, err := trust.Verify(b, nil, time.Now()); err == nil {
				t.Fatal("tampered object accepted")
			} else {
				t.Log(err)
			}
		})
	}
}
