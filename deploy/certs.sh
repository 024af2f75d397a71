#!/bin/sh
# Make an authority, a server's certificate and clients' certificates for a trial:
#   deploy/certs.sh FOLDER [CLIENT ...]
# HOSTS: names and addresses of the server, separated by commas (default: localhost,127.0.0.1,::1).
# DAYS: how long the certificates are valid (default: 30). An authority that is in FOLDER already is used again.
set -eu
umask 077
folder=${1:?usage: deploy/certs.sh FOLDER [CLIENT ...]}
shift
days=${DAYS:-30}
hosts=${HOSTS:-localhost,127.0.0.1,::1}
mkdir -p "$folder"
cd "$folder"
command -v openssl >/dev/null || { echo 'deploy/certs.sh: openssl is missing; install it' >&2; exit 1; }

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

# sign NAME ALTERNATIVE_NAMES USAGE: writes NAME.key and NAME.pem
sign() {
  key "$1.key.new"
  printf 'basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\nsubjectAltName=%s\n' \
    "$3" "$2" >"$1.ext"
  openssl req -new -key "$1.key.new" -subj "/CN=$1" |
    openssl x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days "$days" -extfile "$1.ext" -out "$1.pem.new" 2>/dev/null
  mv "$1.key.new" "$1.key"
  mv "$1.pem.new" "$1.pem"
  rm -f "$1.ext"
}

if [ ! -f ca.key ]; then
  key ca.key
  openssl req -x509 -new -key ca.key -subj '/CN=Lockstep trial authority' -days "$days" -out ca.pem \
    -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,cRLSign
fi
names=
for host in $(printf %s "$hosts" | tr , ' '); do
  case $host in
    *:* | *[0-9].[0-9]*.[0-9]*) names=${names:+$names,}IP:$host ;;
    *) names=${names:+$names,}DNS:$host ;;
  esac
done
sign server "$names" serverAuth,clientAuth # a server is a client of its peers
for client; do sign "$client" "DNS:$client" clientAuth; done
chmod 600 ./*.key
chmod 644 ./*.pem
echo "made in $PWD, valid for $days days: $(ls ./*.pem ./*.key | sed 's,^./,,' | tr '\n' ' ')"
