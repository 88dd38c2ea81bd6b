#!/bin/sh
# Fetch what the tests of the etcd API are run beside, which nobody here wrote:
#
#   fetch.sh DIRECTORY programs         etcd and etcdctl of Debian, unpacked and not installed
#   fetch.sh DIRECTORY postgres         PostgreSQL of Debian, likewise, with the libraries it lacks
#   fetch.sh DIRECTORY suites [PYTHON]  the Python clients' sources with their tests, and environments
#                                       in which they run (suites/*.txt)
#   fetch.sh DIRECTORY fuzzer [PYTHON]  atheris, for that Python
#   fetch.sh DIRECTORY patroni [PYTHON] Patroni, likewise
#   fetch.sh DIRECTORY tooz [PYTHON]    tooz, likewise
#
# To get rid of all of it remove DIRECTORY.
set -eu

directory=${1:?'name the directory to put it into'}
here=$(cd "$(dirname "$0")" && pwd)
python=${3:-python3}
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1

missing() {
  echo "$1" >&2
  tail -n 3 "$directory/log" >&2
  exit 1
}

# Run apt-get; where the system's lists of packages are missing or old, with new ones for this alone.
debian() {
  apt-get "$@" 2>"$directory/log" && return
  mkdir -p "$directory/lists/partial"
  echo "Dir::State::Lists \"$directory/lists\";" >"$directory/apt.conf"
  APT_CONFIG="$directory/apt.conf" apt-get update >"$directory/log" 2>&1 &&
    APT_CONFIG="$directory/apt.conf" apt-get "$@" 2>>"$directory/log"
}

# Unpack Debian's packages, whose names follow, into $1.
unpacked() {
  place=$1
  shift
  rm -rf "$place" "$place.new" "$place.debs"
  mkdir -p "$place.debs"
  cd "$place.debs"
  debian download "$@" >&2 || missing "$* cannot be had by apt-get download"
  for file in *.deb; do
    dpkg-deb -x "$file" "$place.new"
  done
  cd "$directory"
  rm -r "$place.debs"
  mv "$place.new" "$place"
}

programs() {  # (the newest that Debian 12 has: what is said of etcd is said of this one)
  [ -x "$directory/root/usr/bin/etcdctl" ] && return
  unpacked "$directory/root" etcd-server etcd-client
  version=$(ETCDCTL_API=3 "$directory/root/usr/bin/etcdctl" version 2>>"$directory/log" | head -n 1)
  [ "$version" = 'etcdctl version: 3.4.23' ] || {
    rm -rf "$directory/root"
    missing "all is compared with etcd 3.4.23, and Debian has another one here ($version)"
  }
}

postgres() {
  [ -x "$directory/postgres/usr/lib/postgresql/15/bin/initdb" ] && return
  plan=$(debian install --simulate --no-install-recommends postgresql-15) ||
    missing 'PostgreSQL 15 is not among the packages of apt-get'
  # (LLVM and Perl are for what is not used here, and large.)
  wanted=$(echo "$plan" | awk '$1 == "Inst" && $2 ~ /^lib|^postgresql-(client-)?15$/ { print $2 }' |
    grep -v 'llvm\|perl')
  # shellcheck disable=SC2086 # a list of words
  unpacked "$directory/postgres" $wanted
}

# Says whether $1 was made from these very files, which then are noted when all is there.
made_from() {
  sums=$(cat "$here"/suites/*.txt | sha256sum)
  [ "$(cat "$1/made-from" 2>/dev/null)" = "$sums" ]
}

suites() {
  made_from "$directory/suites" && return
  rm -rf "$directory/suites"
  mkdir -p "$directory/suites"
  cd "$directory/suites"
  # (Setuptools takes aetcd's version from git, which a source distribution does not have.)
  SETUPTOOLS_SCM_PRETEND_VERSION=1.0.0 "$python" -m pip download --quiet --no-deps \
    --no-binary aetcd,etcd3,etcd3gw -r "$here/suites/sources.txt" >"$directory/log" 2>&1 ||
    missing 'the source distributions in suites/sources.txt cannot be had by pip download'
  for file in *.tar.gz; do
    tar xzf "$file"
    rm "$file"
  done
  for environment in old new; do
    "$python" -m venv "$environment" >"$directory/log" 2>&1 || missing 'python -m venv has failed'
    "$environment/bin/python" -m pip install --quiet -r "$here/suites/$environment.txt" \
      >"$directory/log" 2>&1 || missing "suites/$environment.txt cannot be installed by pip"
  done
  echo "$sums" >made-from
}

fuzzer() {
  [ -d "$directory/fuzzer/atheris" ] && return
  "$python" -m pip install --quiet --no-deps --only-binary :all: --target "$directory/fuzzer" \
    atheris==3.0.0 >"$directory/log" 2>&1 || missing 'atheris 3.0.0 cannot be installed by pip'
}

patroni() {
  [ -d "$directory/patroni/patroni" ] && return
  rm -rf "$directory/patroni"
  "$python" -m pip install --quiet --target "$directory/patroni" 'patroni[etcd3]==4.1.5' \
    'psycopg[binary]==3.3.9' >"$directory/log" 2>&1 || missing 'Patroni cannot be installed by pip'
}

tooz() {  # (and what its tests import, drivers for others too)
  [ -d "$directory/tooz/tooz" ] && return
  rm -rf "$directory/tooz"
  "$python" -m pip install --quiet --target "$directory/tooz" tooz==9.1.0 etcd3gw==2.7.0 \
    pytest==9.0.3 testscenarios==0.5.0 testtools==2.9.1 fixtures==4.3.2 ddt==1.7.2 \
    sysv_ipc==1.2.0 pymemcache==4.0.0 redis==8.1.0 >"$directory/log" 2>&1 ||
    missing 'tooz cannot be installed by pip'
}

case ${2:-} in
programs | postgres | suites | fuzzer | patroni | tooz) "$2" ;;
*) echo 'say what: programs, postgres, suites, fuzzer, patroni or tooz' >&2; exit 2 ;;
esac
