#!/usr/bin/env bash
# Runs the examples of `swr listen --help` that take audio from ffmpeg and sox, word by word as they stand there, on recordings made of the demo's. Each must hear
# what `swr spot` hears in the demo itself.
#   runtime/scripts/listen_examples.sh
# Program: SWR, by default target/debug/swr. Needs ffmpeg and sox.
set -euo pipefail
cd "$(dirname "$0")/../.."
swr=${SWR:-$PWD/target/debug/swr}
export SWR_MODELS=$PWD/models
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
ln -s "$swr" "$folder/swr"
export PATH=$folder:$PATH

# Without --lang it is English that is listened for.
ffmpeg -loglevel error -i models/demo/en.flac -c:a aac -b:a 128k "$folder/talk.mp4"
ffmpeg -loglevel error -i models/demo/de.flac "$folder/talk.wav"
cd "$folder"
words() { sed -E 's/.*"keyword":"([^"]*)".*/\1/; s/.* ([^ ]+)$/\1/' | tr '\n' ' '; }
expected_mp4=$(swr spot --lang en "$SWR_MODELS/demo/en.flac" | words)
expected_wav=$(swr spot --lang de "$SWR_MODELS/demo/de.flac" | words)

ran=0
while read -r example; do
  # Else ffmpeg takes what it finds there, the rest of the examples, for its own commands.
  heard=$(bash -o pipefail -c "$example" </dev/null | words)
  case $example in
    ffmpeg*) expected=$expected_mp4 ;;
    *) expected=$expected_wav ;;
  esac
  echo "$example"
  echo "  heard $heard"
  [ "$heard" = "$expected" ] || { echo "  expected $expected" && exit 1; }
  ran=$((ran + 1))
done < <(swr listen --help | grep -E '^ *(ffmpeg|sox) ')
[ $ran -eq 2 ]
