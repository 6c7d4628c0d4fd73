package signing

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Encrypted private keys are what `openssl pkcs8 -topk8` and `openssl genpkey
// -aes256` write: PKCS #8 with PBES2 (RFC 8018), PBKDF2 and AES-CBC. The standard
// library reads none. Nothing here is secret to the machine it runs on, and
// nothing of it runs in hornetd.

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
)

// prfs are PBKDF2's functions (RFC 8018, appendix B.1). The first is its default.
var prfs = map[string]func() hash.Hash{
	"":                    sha1.New,
	"1.2.840.113549.2.7":  sha1.New,
	"1.2.840.113549.2.9":  sha256.New,
	"1.2.840.113549.2.10": sha512.New384,
	"1.2.840.113549.2.11": sha512.New,
}

// ciphers are AES-CBC by the bytes of their keys.
var ciphers = map[string]int{
	"2.16.840.1.101.3.4.1.2":  16,
	"2.16.840.1.101.3.4.1.22": 24,
	"2.16.840.1.101.3.4.1.42": 32,
}

// maxIterations is some seconds.
const maxIterations = 10_000_000

type algorithmID struct {
	Algorithm  asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

type encryptedKey struct {
	Scheme struct {
		Algorithm  asn1.ObjectIdentifier
		Parameters struct {
			Derivation struct {
				Algorithm  asn1.ObjectIdentifier
				Parameters asn1.RawValue
			}
			Cipher struct {
				Algorithm asn1.ObjectIdentifier
				IV        asn1.RawValue
			}
		}
	}
	Data []byte
}

type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeyLength  int         `asn1:"optional"`
	PRF        algorithmID `asn1:"optional"`
}

// decrypt returns the PKCS #8 key in an encrypted one.
func decrypt(der, passphrase []byte) ([]byte, error) {
	unknown := func(what string) error {
		return remedy.With(fmt.Errorf("it is encrypted in a way that is not known (%s)", what),
			"encrypt it anew: openssl pkcs8 -topk8 -v2 aes256 -in KEY; or decrypt it on the way: --key <(openssl pkey -in KEY)")
	}
	var k encryptedKey
	if rest, err := asn1.Unmarshal(der, &k); err != nil || len(rest) > 0 || !k.Scheme.Algorithm.Equal(oidPBES2) {
		return nil, unknown("not PBES2")
	}
	derivation, scheme := k.Scheme.Parameters.Derivation, k.Scheme.Parameters.Cipher
	var p pbkdf2Params
	if rest, err := asn1.Unmarshal(derivation.Parameters.FullBytes, &p); !derivation.Algorithm.Equal(oidPBKDF2) || err != nil || len(rest) > 0 {
		return nil, unknown("not PBKDF2")
	}
	prf, size := prfs[p.PRF.Algorithm.String()], ciphers[scheme.Algorithm.String()]
	if prf == nil || size == 0 || len(scheme.IV.Bytes) != aes.BlockSize || p.KeyLength != 0 && p.KeyLength != size {
		return nil, unknown(fmt.Sprintf("PBKDF2 with %v, cipher %v", p.PRF.Algorithm, scheme.Algorithm))
	}
	if p.Iterations < 1 || p.Iterations > maxIterations {
		return nil, unknown(fmt.Sprintf("%d iterations", p.Iterations))
	}
	key, err := pbkdf2.Key(prf, string(passphrase), p.Salt, p.Iterations, size)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return decryptCBC(block, scheme.IV.Bytes, k.Data)
}

func wrongPassphrase() error {
	return remedy.With(errors.New("the passphrase is wrong, or the file damaged"), "try it with openssl pkey -in KEY")
}

// decryptCBC decrypts data, and takes the padding off (RFC 8018, 6.1.1).
func decryptCBC(block cipher.Block, iv, data []byte) ([]byte, error) {
	wrong := wrongPassphrase()
	if len(data) == 0 || len(data)%aes.BlockSize != 0 {
		return nil, wrong
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, data)
	n := int(plain[len(plain)-1])
	if n < 1 || n > aes.BlockSize {
		return nil, wrong
	}
	for _, b := range plain[len(plain)-n:] {
		if int(b) != n {
			return nil, wrong
		}
	}
	return plain[:len(plain)-n], nil
}
