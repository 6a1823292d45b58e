#!/usr/bin/env bash
# Makes a private CA and a certificate of it for each NAME, for mutual TLS between the services and their clients:
#   deploy/certificates.sh deploy/tls transmitter channel receiver client
# A certificate holds for its NAME, for localhost and for 127.0.0.1, at a server and at a client. What is there stays.
set -euo pipefail
days=${DAYS:-365}

if [ $# -lt 2 ]; then
    echo "usage: $0 DIRECTORY NAME..." >&2
    exit 2
fi
if ! command -v openssl >/dev/null; then
    echo "openssl is not installed (Debian: apt-get install openssl)" >&2
    exit 1
fi
directory=$1
shift
umask 077
mkdir -p "$directory"
cd "$directory"

make_certificate() {  # NAME SUBJECT ARGUMENTS...: NAME.key and NAME.pem
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days "$days" -subj "/CN=$2" \
        -keyout "$1.key" -out "$1.pem" "${@:3}" 2>/dev/null
    chmod 644 "$1.pem"
}

[ -e ca.pem ] || make_certificate ca "MMSC private CA" \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign
for name in "$@"; do
    [ -e "$name.pem" ] || make_certificate "$name" "$name" -CA ca.pem -CAkey ca.key \
        -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature \
        -addext extendedKeyUsage=serverAuth,clientAuth \
        -addext "subjectAltName=DNS:$name,DNS:localhost,IP:127.0.0.1"
done
