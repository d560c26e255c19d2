#!/bin/sh
# Installs BluesMinds from its archive, after its checksum was verified.
#
#   sh install.sh [--dry-run] [--prefix DIRECTORY] [--bin DIRECTORY] ARCHIVE
#   sh install.sh [--dry-run] [--prefix DIRECTORY] [--bin DIRECTORY] --uninstall
#
# ARCHIVE is a file bluesminds-*.tar.gz, or its https URL. SHA256SUMS must be in the same place. The program goes to
# /opt/bluesminds and a link to /usr/local/bin. Configuration and data are never touched.
set -eu

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

run() {
    if [ "$dry" = yes ]; then
        printf 'would run: %s\n' "$*"
    else
        "$@"
    fi
}

fetch() {
    case $1 in
        https://*)
            if command -v curl >/dev/null; then
                curl --proto '=https' --fail --silent --show-error --location --output "$2" "$1"
            elif command -v wget >/dev/null; then
                wget --quiet --https-only --output-document "$2" "$1"
            else
                fail "install curl or wget, or download the archive and SHA256SUMS yourself"
            fi ;;
        http://*) fail "$1 is not an https URL" ;;
        *) cp "$1" "$2" 2>/dev/null || fail "$1 cannot be read" ;;
    esac
}

digest() {
    if command -v sha256sum >/dev/null; then
        sha256sum "$1" | cut -d ' ' -f 1
    else
        shasum -a 256 "$1" | cut -d ' ' -f 1
    fi
}

prefix=/opt/bluesminds bin=/usr/local/bin dry=no uninstall=no archive=
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry=yes ;;
        --uninstall) uninstall=yes ;;
        --prefix) shift; prefix=${1:?--prefix needs a directory} ;;
        --bin) shift; bin=${1:?--bin needs a directory} ;;
        -*) fail "unknown option $1" ;;
        *) archive=$1 ;;
    esac
    shift
done
case $prefix in /*/*) ;; *) fail "--prefix must be a complete path such as /opt/bluesminds" ;; esac

if [ "$uninstall" = yes ]; then
    [ -x "$prefix/bluesminds" ] || fail "there is no BluesMinds in $prefix"
    run rm -rf "$prefix"
    run rm -f "$bin/bluesminds"
    exit 0
fi
[ -n "$archive" ] || fail "name the archive: sh install.sh bluesminds-VERSION-SYSTEM-MACHINE.tar.gz"
if [ -e "$prefix" ] && [ ! -x "$prefix/bluesminds" ]; then
    fail "$prefix exists and is not BluesMinds; choose another directory with --prefix"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
name=${archive##*/}
case $archive in */*) place=${archive%/*} ;; *) place=. ;; esac
fetch "$archive" "$work/$name"
fetch "$place/SHA256SUMS" "$work/SHA256SUMS"
expected=$(awk -v name="$name" '$2 == name || $2 == "*" name {print $1}' "$work/SHA256SUMS")
[ -n "$expected" ] || fail "SHA256SUMS does not name $name"
[ "$(digest "$work/$name")" = "$expected" ] || fail "the checksum of $name is wrong; download it again"
printf 'checksum of %s: ok\n' "$name"

run rm -rf "$prefix.new"    # of an installation that was interrupted
run mkdir -p "$prefix.new" "$bin"
run tar -xzf "$work/$name" -C "$prefix.new" --strip-components 1
[ "$dry" = yes ] || "$prefix.new/bluesminds" version >/dev/null || fail "the program does not run on this system"
run rm -rf "$prefix"
run mv "$prefix.new" "$prefix"
run ln -sf "$prefix/bluesminds" "$bin/bluesminds"
[ "$dry" = yes ] || printf 'installed in %s; start with: bluesminds demo\n' "$prefix"
