// Package s3 keeps a lake's objects in S3 or a store that speaks its protocol.
//
// The whole protocol rests on one promise of the store: a create-only put has
// exactly one winner, for ever. On S3 and most of its look-alikes that is
// If-None-Match: *, on Aliyun OSS x-oss-forbid-overwrite; which one is a
// matter of the Profile. Because a store that does not know the header mostly
// ignores it in silence, Open and New try it out first (Probe) and refuse a
// store that lies.
//
//	s3://bucket                                            AWS
//	s3://bucket/prod?region=eu-central-1                   AWS, keys under prod/
//	s3://lake?endpoint=http://127.0.0.1:7070               generic: path style, no optional checksums
//	s3://lake?endpoint=http://gw:7070&profile=versitygw
//	s3://lake?endpoint=oss-cn-hangzhou&profile=oss         Aliyun OSS
//
// Credentials come from the SDK's default chain (AWS_ACCESS_KEY_ID and
// AWS_SECRET_ACCESS_KEY, shared files, web identity, container or instance
// roles), never from the URL. They need s3:PutObject, s3:GetObject,
// s3:DeleteObject and, on the bucket, s3:ListBucket: without the last one S3
// answers 403 where 404 is meant.
//
// What a returned Put is worth is what the store makes of it. S3 and OSS answer
// when the object is durable in several places. versitygw on a POSIX directory
// does not fsync: it survives the loss of a process, not of power.
//
// A bucket with versioning works on S3: create-only looks at the current
// version. On OSS it does not: there x-oss-forbid-overwrite has no effect once
// versioning is on, and the probe refuses the bucket.
package s3
