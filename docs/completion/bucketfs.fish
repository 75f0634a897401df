# fish completion for bucketfs. Made by `make docs`.

complete -c bucketfs -n __fish_use_subcommand -a mount
complete -c bucketfs -n __fish_use_subcommand -a umount
complete -c bucketfs -n __fish_use_subcommand -a status
complete -c bucketfs -n __fish_use_subcommand -a top
complete -c bucketfs -n __fish_use_subcommand -a flush
complete -c bucketfs -n __fish_use_subcommand -a refresh
complete -c bucketfs -n __fish_use_subcommand -a info
complete -c bucketfs -n __fish_use_subcommand -a warm
complete -c bucketfs -n __fish_use_subcommand -a evict
complete -c bucketfs -n __fish_use_subcommand -a set
complete -c bucketfs -n __fish_use_subcommand -a log-level
complete -c bucketfs -n __fish_use_subcommand -a restart
complete -c bucketfs -n __fish_use_subcommand -a versions
complete -c bucketfs -n __fish_use_subcommand -a restore
complete -c bucketfs -n __fish_use_subcommand -a presign
complete -c bucketfs -n __fish_use_subcommand -a size
complete -c bucketfs -n __fish_use_subcommand -a check
complete -c bucketfs -n __fish_use_subcommand -a gc
complete -c bucketfs -n __fish_use_subcommand -a dataset
complete -c bucketfs -n __fish_use_subcommand -a recover
complete -c bucketfs -n __fish_use_subcommand -a help
complete -c bucketfs -n __fish_use_subcommand -a completion
complete -c bucketfs -n __fish_use_subcommand -a demo
complete -c bucketfs -n __fish_use_subcommand -s f
complete -c bucketfs -n __fish_use_subcommand -s d
complete -c bucketfs -n __fish_use_subcommand -l help
complete -c bucketfs -n __fish_use_subcommand -l version
complete -c bucketfs -n '__fish_seen_subcommand_from umount' -s l
complete -c bucketfs -n '__fish_seen_subcommand_from umount' -s z
complete -c bucketfs -n '__fish_seen_subcommand_from umount' -l lazy
complete -c bucketfs -n '__fish_seen_subcommand_from umount' -s q
complete -c bucketfs -n '__fish_seen_subcommand_from umount' -l quiet
complete -c bucketfs -n '__fish_seen_subcommand_from umount' -l timeout
complete -c bucketfs -n '__fish_seen_subcommand_from umount' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from status' -l json
complete -c bucketfs -n '__fish_seen_subcommand_from status' -l prometheus
complete -c bucketfs -n '__fish_seen_subcommand_from status' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from top' -l once
complete -c bucketfs -n '__fish_seen_subcommand_from top' -l json
complete -c bucketfs -n '__fish_seen_subcommand_from top' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from flush' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from refresh' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from info' -l json
complete -c bucketfs -n '__fish_seen_subcommand_from info' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from warm' -l json
complete -c bucketfs -n '__fish_seen_subcommand_from warm' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from evict' -l json
complete -c bucketfs -n '__fish_seen_subcommand_from evict' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from set' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from log-level' -a crit
complete -c bucketfs -n '__fish_seen_subcommand_from log-level' -a err
complete -c bucketfs -n '__fish_seen_subcommand_from log-level' -a warn
complete -c bucketfs -n '__fish_seen_subcommand_from log-level' -a info
complete -c bucketfs -n '__fish_seen_subcommand_from log-level' -a dbg
complete -c bucketfs -n '__fish_seen_subcommand_from log-level' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from restart' -l timeout
complete -c bucketfs -n '__fish_seen_subcommand_from restart' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from versions' -l json
complete -c bucketfs -n '__fish_seen_subcommand_from versions' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from restore' -l version
complete -c bucketfs -n '__fish_seen_subcommand_from restore' -l from-archive
complete -c bucketfs -n '__fish_seen_subcommand_from restore' -l days
complete -c bucketfs -n '__fish_seen_subcommand_from restore' -l tier
complete -c bucketfs -n '__fish_seen_subcommand_from restore' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from presign' -l expires
complete -c bucketfs -n '__fish_seen_subcommand_from presign' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from size' -l json
complete -c bucketfs -n '__fish_seen_subcommand_from size' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from check' -l json
complete -c bucketfs -n '__fish_seen_subcommand_from check' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from gc' -l older
complete -c bucketfs -n '__fish_seen_subcommand_from gc' -l dry-run
complete -c bucketfs -n '__fish_seen_subcommand_from gc' -l json
complete -c bucketfs -n '__fish_seen_subcommand_from gc' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from dataset' -a add
complete -c bucketfs -n '__fish_seen_subcommand_from dataset' -a list
complete -c bucketfs -n '__fish_seen_subcommand_from dataset' -a show
complete -c bucketfs -n '__fish_seen_subcommand_from dataset' -a remove
complete -c bucketfs -n '__fish_seen_subcommand_from dataset' -l system
complete -c bucketfs -n '__fish_seen_subcommand_from dataset' -l replace
complete -c bucketfs -n '__fish_seen_subcommand_from dataset' -l keys
complete -c bucketfs -n '__fish_seen_subcommand_from dataset' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from recover' -l cache
complete -c bucketfs -n '__fish_seen_subcommand_from recover' -l json
complete -c bucketfs -n '__fish_seen_subcommand_from recover' -l apply
complete -c bucketfs -n '__fish_seen_subcommand_from recover' -l save
complete -c bucketfs -n '__fish_seen_subcommand_from recover' -l discard
complete -c bucketfs -n '__fish_seen_subcommand_from recover' -l all
complete -c bucketfs -n '__fish_seen_subcommand_from recover' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from help' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from completion' -a bash
complete -c bucketfs -n '__fish_seen_subcommand_from completion' -a zsh
complete -c bucketfs -n '__fish_seen_subcommand_from completion' -a fish
complete -c bucketfs -n '__fish_seen_subcommand_from completion' -l help
complete -c bucketfs -n '__fish_seen_subcommand_from demo' -l help
complete -c bucketfs -s o -x -a "(__fish_append , url= region= use_path_request_style sigv2 enable_unsigned_payload checksum= enable_content_md5 probe requester_pays passwd_file= profile= public_bucket iam_role use_session_token retries= connect_timeout= readwrite_timeout= op_timeout= max_thread_count= no_check_certificate ca_bundle= ssl_verify_hostname storage_class= default_acl= use_sse all_buckets ro at= versions uid= gid= umask= mp_umask= allow_other fuse_fd= restart plain_fuse use_xattr enable_acl metadata= conflict= exclusive_create= compat_dir stat_cache_expire= open_ttl= immutable follow locks= lock_lease= bucket_size= use_cache= tmpdir= check_cache_dir_exist cache_size= free_space_ratio= ensure_diskfree= writeback publish= multipart_size= nomultipart logfile= dbglevel= log_format= no_time_stamp_msg instance_name= metrics= rw nonempty)"
