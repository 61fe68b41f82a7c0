"""Read with TensorFlow what `bigbatch convert` wrote, and write what it shall read: `make test-tensorflow`.

python check.py read FILE...      # JSON Lines on standard output
python check.py write FILE PACK   # PACK: "", GZIP or ZLIB
"""

from __future__ import annotations

import json
import sys

import tensorflow as tf

ROWS = [("hello", 1, 0.5, [1, 2, 300]), ("wörld", -7, -2.0, [4])]


def main(what: str, *words: str) -> None:
    if what == "read":
        for path in words:
            pack = "GZIP" if path.endswith(".gz") else ""
            for record in tf.data.TFRecordDataset([path], compression_type=pack):
                features = tf.train.Example.FromString(record.numpy()).features.feature
                row = {}
                for name, feature in sorted(features.items()):
                    kind = feature.WhichOneof("kind")
                    values = list(getattr(feature, kind).value)
                    row[name] = [one.decode() if isinstance(one, bytes) else one for one in values]
                print(json.dumps(row))
        return
    path, pack = words
    with tf.io.TFRecordWriter(path, options=tf.io.TFRecordOptions(compression_type=pack)) as file:
        for text, label, score, ids in ROWS:
            feature = {
                "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                "score": tf.train.Feature(float_list=tf.train.FloatList(value=[score])),
                "ids": tf.train.Feature(int64_list=tf.train.Int64List(value=ids)),
            }
            file.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


if __name__ == "__main__":
    main(*sys.argv[1:])
