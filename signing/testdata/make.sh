#!/bin/sh
# Makes the signed objects in this directory anew with the kernel's sign-file
# ($1, in Debian's linux-kbuild packages), with keys that are thrown away.
set -eu
sign_file=$1
cd "$(dirname "$0")"
keys=$(mktemp -d)
trap 'rm -rf "$keys"' EXIT
rm -f ./*.pem ./*.o
printf '\177ELF what somebody else signed\n' >"$keys/object"

signed() {
	name=$1 flags=$2 digest=$3
	shift 3
	openssl req -x509 -newkey "$@" -nodes -keyout "$keys/$name" -out "$name.pem" -days 36500 \
		-subj "/O=hornetd/CN=$name" -addext keyUsage=digitalSignature -addext extendedKeyUsage=codeSigning 2>/dev/null
	# shellcheck disable=SC2086 # no flags: no argument
	"$sign_file" $flags "$digest" "$keys/$name" "$name.pem" "$keys/object" "$name.o"
}

signed rsa "" sha512 rsa:2048
signed rsa-keyid -k sha256 rsa:3072
signed p256 -k sha256 ec -pkeyopt ec_paramgen_curve:P-256
signed p384 "" sha384 ec -pkeyopt ec_paramgen_curve:P-384
