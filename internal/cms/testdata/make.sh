#!/bin/sh
# Makes the signatures in this directory anew, with keys that are thrown away.
# One row: key, key's parameters for req, and the rest for cms -sign.
set -eu
cd "$(dirname "$0")"
keys=$(mktemp -d)
trap 'rm -rf "$keys"' EXIT
rm -f ./*.pem ./*.p7s
printf '\177ELF what somebody else signed\n' >object

key() {
	name=$1
	shift
	openssl req -x509 -newkey "$@" -nodes -keyout "$keys/$name" -out "$name.pem" -days 36500 \
		-subj "/O=hornetd/CN=$name" -addext keyUsage=digitalSignature -addext extendedKeyUsage=codeSigning 2>/dev/null
}

sign() {
	key=$1 shape=$2
	shift 2
	openssl cms -sign -binary -in object -signer "$key.pem" -inkey "$keys/$key" -outform DER -out "$key-$shape.p7s" "$@"
}

key rsa rsa:2048
key p256 ec -pkeyopt ec_paramgen_curve:P-256
key p384 ec -pkeyopt ec_paramgen_curve:P-384
key p521 ec -pkeyopt ec_paramgen_curve:P-521

sign rsa bpftool -noattr -nocerts -keyid -md sha256
sign rsa sign-file -noattr -nocerts -md sha512
sign rsa openssl
sign rsa pss -nocerts -keyopt rsa_padding_mode:pss -md sha384
sign p256 bpftool -noattr -nocerts -keyid -md sha256
sign p256 openssl
sign p384 attributes -nocerts -keyid -md sha384
sign p521 sign-file -noattr -nocerts -md sha512
