#!/usr/bin/env bash
# Instructions on ARM of what a device does, counted under qemu-user: a start, the parts of loading a language from flash, a trial, a second of audio. A stand-in for a board:
# instructions are not time, and qemu knows no caches. Writes firmware-sim/instructions.json, which `swr-sim costs` reads, and prints it. Needs qemu-user and the cross compilers.
set -euo pipefail
cd "$(dirname "$0")/../.."

parts="start verify merge build load trial second"

# Instructions of a command: blocks as qemu runs them, each as long as when it was translated.
count() {
  $run -d in_asm,exec,nochain -D /dev/stderr "$program" models/small "$1" "$2" 2>&1 >/dev/null | awk '
    /^IN:/ { address = ""; next }
    /^0x/ { if (address == "") { address = substr($1, 3, length($1) - 3); sub(/^0+/, "", address); length_of[address] = 0 } length_of[address]++; next }
    /^Trace/ { split($0, field, "/"); sub(/^0+/, "", field[2]); if (!(field[2] in length_of)) unknown++; sum += length_of[field[2]] }
    END { if (!sum || unknown) { print "this qemu tells of blocks in another way: " unknown + 0 " unknown" >"/dev/stderr"; exit 1 } printf "%.0f\n", sum }'
}

out=firmware-sim/instructions.json
{
  echo "{"
  for target in aarch64-unknown-linux-gnu armv7-unknown-linux-gnueabihf; do
    case $target in
      aarch64*) gnu=aarch64-linux-gnu qemu=qemu-aarch64 ;;
      *) gnu=arm-linux-gnueabihf qemu=qemu-arm ;;
    esac
    upper=${target^^}
    env "CARGO_TARGET_${upper//-/_}_LINKER=$gnu-gcc" cargo build --quiet -p swr-firmware-sim --no-default-features --example parts --target "$target"
    run="$qemu -L /usr/$gnu -E LD_LIBRARY_PATH=/usr/$gnu/lib"
    program=target/$target/debug/examples/parts
    echo "  \"${target%%-*}\": {"
    for part in $parts; do
      # The difference of two lengths: what comes before is not the part.
      one=$(count $part 1)
      three=$(count $part 3)
      comma=,
      [ $part != second ] || comma=
      echo "    \"$part\": $(((three - one) / 2))$comma"
    done
    [[ $target = aarch64* ]] && echo "  }," || echo "  }"
  done
  echo "}"
} | tee $out.part
mv $out.part $out
