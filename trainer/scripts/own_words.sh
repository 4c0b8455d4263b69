#!/usr/bin/env bash
# The walk-through of "Your own words" in the README, without a microphone: a synthetic voice (espeak-ng) says each word a few times into a recording, which is cut into
# clips, a delta is trained on them, and the words are to be found in takes that were not trained on, between others that are none. Of these six, at most three may be
# taken for one: nobody has recorded other words here, and what is heard in them differs between trainings (RECIPES.md).
#   trainer/scripts/own_words.sh [FOLDER]      default: target/own-words, made anew
# Programs: SWR and SWR_TRAIN, by default through cargo.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-target/own-words}
swr=${SWR:-cargo run --quiet --bin swr --}
swr_train=${SWR_TRAIN:-cargo run --quiet --bin swr-train --}
words=(lumos accio nox)
takes=8
rm -rf "$folder"
mkdir -p "$folder/models"
cp models/small/base.onnx models/small/base.json "$folder/models"

# Says $3 and the words after it, each at another speed and pitch counted on from $2, with pauses, into the file $1.
say() {
  local file=$1 take=$2 text='<speak><break time="1000ms"/>'
  shift 2
  for word; do
    text+="<prosody rate=\"$((85 + take * 5 % 30))%\" pitch=\"$((90 + take * 7 % 25))%\">$word</prosody><break time=\"1400ms\"/>"
    take=$((take + 1))
  done
  espeak-ng -m -v en-us+Andrea -a 60 -w "$file" "$text</speak>"
}

started=$SECONDS
for word in "${words[@]}"; do
  say "$folder/$word.wav" 0 $(yes "$word" | head -n $takes)
  $swr record --word "$word" -n $takes --file "$folder/$word.wav" --out "$folder/words"
done
$swr_train adapt --data "$folder/words" --lang xx --budget 10% --models "$folder/models" --work "$folder/train"
minutes=$(((SECONDS - started + 59) / 60))

# Other takes than those trained on, and words that are none.
say "$folder/heard.wav" 100 window lumos garden accio table nox person lumos water accio paper nox
heard=$($swr spot --json --models "$folder/models" --lang xx "$folder/heard.wav" | grep -o '"keyword":"[a-z]*"' | cut -d'"' -f4 | tr '\n' ' ' || true)
echo "heard: $heard(spoken: lumos accio nox lumos accio nox); $minutes minutes from the recordings to the delta"
[[ "$heard" =~ lumos.*accio.*nox.*lumos.*accio.*nox ]]
[ "$(wc -w <<<"$heard")" -le 9 ]
