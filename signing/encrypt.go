package signing

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/hornetd/hornetd/internal/remedy"
)

// How keys are encrypted: what decrypt and openssl read, with the most in it that
// both have.
const (
	saltSize      = 16
	newIterations = 600_000 // of PBKDF2 with HMAC-SHA-256: some tenths of a second
	maxPassphrase = 1000    // bytes; openssl reads no more
)

var (
	oidHMACSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidAES256CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

// EncryptKey returns a private key as Issue made it, in PEM, encrypted: PKCS #8
// with PBES2, PBKDF2 with HMAC-SHA-256, and AES-256-CBC.
func EncryptKey(keyPEM, passphrase []byte) ([]byte, error) {
	if n := len(passphrase); n == 0 || n > maxPassphrase {
		return nil, remedy.With(fmt.Errorf("the passphrase has %d bytes, must have 1 to %d", n, maxPassphrase), "choose another one")
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("private key: not PKCS #8 in PEM")
	}
	random := make([]byte, saltSize+aes.BlockSize)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	salt, iv := random[:saltSize], random[saltSize:]
	key, err := pbkdf2.Key(sha256.New, string(passphrase), salt, newIterations, 32)
	if err != nil {
		return nil, err
	}
	aes256, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	var k encryptedKey
	k.Scheme.Algorithm = oidPBES2
	k.Scheme.Parameters.Derivation.Algorithm = oidPBKDF2
	k.Scheme.Parameters.Cipher.Algorithm = oidAES256CBC
	k.Scheme.Parameters.Cipher.IV = asn1.RawValue{Tag: asn1.TagOctetString, Bytes: iv}
	params, err := asn1.Marshal(pbkdf2Params{Salt: salt, Iterations: newIterations, PRF: algorithmID{oidHMACSHA256, asn1.NullRawValue}})
	if err != nil {
		return nil, err
	}
	k.Scheme.Parameters.Derivation.Parameters = asn1.RawValue{FullBytes: params}
	n := aes.BlockSize - len(block.Bytes)%aes.BlockSize
	k.Data = append(bytes.Clone(block.Bytes), bytes.Repeat([]byte{byte(n)}, n)...)
	cipher.NewCBCEncrypter(aes256, iv).CryptBlocks(k.Data, k.Data)
	der, err := asn1.Marshal(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}), nil
}
