#!/usr/bin/env bash
# Instructions that a second of audio takes on ARM, counted under qemu-user: front end, fused network and detector, without tract, in steps of 40 ms. A stand-in for a board:
# instructions are not time, and qemu knows no caches. Then those of a start of a device with flash. Needs qemu-user and the cross compilers; prints a line a processor.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Instructions of $1 = qemu and its options, $2 = program, over $3 seconds.
count() {
  # One instruction a block, one line a block.
  $1 -singlestep -d exec,nochain -D /dev/stderr "$2" models "$3" 2>&1 >/dev/null | grep -c '^Trace'
}

for target in aarch64-unknown-linux-gnu armv7-unknown-linux-gnueabihf; do
  case $target in
    aarch64*) gnu=aarch64-linux-gnu qemu=qemu-aarch64 ;;
    *) gnu=arm-linux-gnueabihf qemu=qemu-arm ;;
  esac
  upper=${target^^}
  env "CARGO_TARGET_${upper//-/_}_LINKER=$gnu-gcc" cargo build --quiet -p swr-core --example listen --target "$target"
  run="$qemu -L /usr/$gnu -E LD_LIBRARY_PATH=/usr/$gnu/lib"
  program=target/$target/debug/examples/listen
  # The difference of two lengths: starting is not listening.
  one=$(count "$run" "$program" 1)
  three=$(count "$run" "$program" 3)
  echo "$target: $(((three - one) / 2)) instructions a second of audio"
  env "CARGO_TARGET_${upper//-/_}_LINKER=$gnu-gcc" cargo build --quiet -p swr-firmware-sim --no-default-features --example load --target "$target"
  program=target/$target/debug/examples/load
  one=$(count "$run" "$program" 1)
  three=$(count "$run" "$program" 3)
  echo "$target: $(((three - one) / 2)) instructions to start and load a language from flash: record, signatures, digests, merge, network"
done
